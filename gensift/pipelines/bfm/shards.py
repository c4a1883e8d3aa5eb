"""Weights of blockwise models on disk: one safetensors file per segment, one for all the rest.

Files are named and indexed as diffusers names shards, so that it loads whole models by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gensift.errors import ConfigError

_STEM = SAFETENSORS_WEIGHTS_NAME.removesuffix(".safetensors")


class MissingSegment(nn.Module):
    """In the place of a segment whose weights were not loaded."""

    def __init__(self, index: int, loaded: Sequence[int]) -> None:
        super().__init__()
        self.index, self.loaded = index, tuple(loaded)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Refuse to make tokens `(rows, tokens, width)` of anything.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"Segment {self.index} was not loaded; loaded are {list(self.loaded)}. Load it with "
            f"from_pretrained(..., segments={sorted({*self.loaded, self.index})})."
        )


def write_shards(model: Any, folder: Path, variant: str | None = None) -> None:
    """Write the weights of `model`, and remove other shards of the same name.

    Raises:
        ConfigError: segments are missing.
    """
    loaded, total = model.loaded_segments(), len(model.segments)
    if len(loaded) < total:
        raise ConfigError(
            f"Only segments {loaded} of {total} are loaded; load all of them to save the model."
        )
    stem = f"{_STEM}.{variant}" if variant else _STEM
    state = model.state_dict()
    names = [
        f"{stem}-{number + 1:05d}-of-{total + 1:05d}.safetensors" for number in range(total + 1)
    ]
    shards: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, value in state.items():
        shards[names[_shard_number(key)]][key] = value.detach().cpu().contiguous()
    for stale in {*folder.glob(f"{stem}-*-of-*.safetensors"), folder / f"{stem}.safetensors"}:
        stale.unlink(missing_ok=True)
    for name, shard in shards.items():
        save_file(shard, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(value.nbytes for value in state.values())},
        "weight_map": {key: name for name, shard in shards.items() for key in shard},
    }
    _index_file(folder, variant).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def load_with_segments(
    cls: Any,
    folder: Path,
    segments: Sequence[int],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A model of class `cls` of which only `segments` are there; other files are not read.

    Raises:
        ConfigError: a segment does not exist, or `folder` holds no shards.
    """
    folder = folder / subfolder if subfolder else folder
    if not _index_file(folder, variant).is_file():
        raise ConfigError(
            f"{folder} holds no model with a shard per segment; `segments` needs a local folder "
            "that `save_pretrained` of a blockwise model wrote."
        )
    weight_map = json.loads(_index_file(folder, variant).read_text())["weight_map"]
    with init_empty_weights():
        model = cls.from_config(cls.load_config(folder))
    wanted = _checked(segments, len(model.segments))
    for index in set(range(len(model.segments))) - set(wanted):
        model.segments[index] = MissingSegment(index, wanted)
    state = _read(folder, weight_map, model.state_dict().keys())
    model.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    return model.eval()


def _read(folder: Path, weight_map: Mapping[str, str], keys: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name in sorted({weight_map[key] for key in keys}):
        state |= load_file(folder / name)
    return state


def _checked(segments: Sequence[int], total: int) -> list[int]:
    wanted = sorted(set(segments))
    if not wanted or wanted[0] < 0 or wanted[-1] >= total:
        raise ConfigError(f"`segments` is {list(segments)}; name at least one of 0 to {total - 1}.")
    return wanted


def _shard_number(key: str) -> int:
    """0 for what all segments share, else one more than the segment."""
    return int(key.split(".")[1]) + 1 if key.startswith("segments.") else 0


def _index_file(folder: Path, variant: str | None) -> Path:
    middle = f".{variant}" if variant else ""
    return folder / f"{SAFETENSORS_WEIGHTS_NAME}.index{middle}.json"
