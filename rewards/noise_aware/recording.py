"""Recorded trajectories: what every candidate looked like after each step, and its final score.

A folder with `recording.json` and one `shard-NNNNN.safetensors` per few prompts. A shard holds
`pictures/SSS` uint8 `(prompts, images, 3, height, width)` for each step index, the last one being
the finished picture; `scores/NAME` float32 `(prompts, images)`, by the plain reward; `seeds` int64
`(prompts, images)`; `sigmas` float32 `(steps,)` on the flow scale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gensift.errors import ConfigError, RunFolderError
from gensift.files import remove_stale_temporaries, write_atomically

INDEX = "recording.json"


@dataclass(frozen=True, eq=False)
class Shard:
    """Trajectories of a few prompts.

    Attributes:
        prompts: one per group of images.
        pictures: per step index uint8 `(prompts, images, 3, height, width)`.
        scores: per reward, of the finished pictures, float32 `(prompts, images)`.
        seeds: int64 `(prompts, images)`.
        sigmas: noise level that each step's estimate was made at, flow scale, `(steps,)`.
    """

    prompts: tuple[str, ...]
    pictures: tuple[Tensor, ...]
    scores: Mapping[str, Tensor]
    seeds: Tensor
    sigmas: Tensor


class RecordingWriter:
    """Writes shards into a folder; those that are there already are skipped by the recorder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin a recording, or go on with one of the same `config`.

        Raises:
            RunFolderError: the folder holds a recording with another config, or cannot be made.
        """
        self.folder = folder
        index = folder / INDEX
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(folder)
            if not index.exists():
                write_atomically(index, (json.dumps(dict(config), indent=2) + "\n").encode())
        except OSError as error:
            raise RunFolderError(
                f"Folder {str(folder)!r} cannot be written ({error.strerror}); choose another."
            ) from error
        found = _read_index(index)
        differing = sorted(k for k in found.keys() | config.keys() if found.get(k) != config.get(k))
        if differing:
            raise RunFolderError(
                f"Folder {str(folder)!r} holds a recording with another {', '.join(differing)}; "
                "repeat that command to resume it, or choose another folder."
            )

    def has(self, number: int) -> bool:
        """Whether shard `number` is finished."""
        return self._file(number).exists()

    def write(self, number: int, shard: Shard) -> None:
        """Write a shard, complete or not at all."""
        tensors = {f"pictures/{s:03d}": p.contiguous() for s, p in enumerate(shard.pictures)}
        tensors |= {f"scores/{name}": values.contiguous() for name, values in shard.scores.items()}
        tensors |= {"seeds": shard.seeds, "sigmas": shard.sigmas}
        data = save(tensors, metadata={"prompts": json.dumps(shard.prompts)})
        write_atomically(self._file(number), data)

    def _file(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"


class Recording:
    """A finished or growing recording, read lazily.

    Attributes:
        folder: where it lies.
        config: what it was made with.
        prompts: all recorded ones, in order.
        num_images: candidates per prompt.
        num_steps: recorded steps, the finished picture included.
        sigmas: noise level per step, flow scale.
        reward_names: whose final scores are there.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            ConfigError: it holds no recording, or a damaged one.
        """
        self.folder = folder
        self.config = _read_index(folder / INDEX)
        files = sorted(folder.glob("shard-*.safetensors"))
        if not files:
            raise ConfigError(f"Recording {str(folder)!r} has no shard yet; run gensift record.")
        self._places: list[tuple[Path, int]] = []
        prompts: list[str] = []
        for file in files:
            texts = _prompts_of(file)
            self._places += [(file, row) for row in range(len(texts))]
            prompts += texts
        self.prompts = tuple(prompts)
        first = _opened(files[0])
        keys = list(first.keys())
        self.sigmas = tuple(first.get_tensor("sigmas").tolist())
        self.num_images = int(first.get_tensor("seeds").shape[1])
        self.num_steps = len(self.sigmas)
        self.reward_names = tuple(
            sorted(key.removeprefix("scores/") for key in keys if key.startswith("scores/"))
        )

    def pictures(self, prompt_indices: Sequence[int], step: int) -> Tensor:
        """uint8 `(prompts, images, 3, height, width)` of some prompts after one step."""
        return self._gather(prompt_indices, f"pictures/{step:03d}")

    def scores(self, reward: str, prompt_indices: Sequence[int] | None = None) -> Tensor:
        """Final scores float32 `(prompts, images)`.

        Raises:
            ConfigError: the reward's scores were not recorded.
        """
        if reward not in self.reward_names:
            raise ConfigError(
                f"Recording {str(self.folder)!r} has no final scores of {reward!r}; it has "
                f"{', '.join(self.reward_names)}. Record again with --reward {reward}."
            )
        chosen = range(len(self.prompts)) if prompt_indices is None else prompt_indices
        return self._gather(chosen, f"scores/{reward}")

    def _gather(self, prompt_indices: Sequence[int], key: str) -> Tensor:
        rows = []
        for index in prompt_indices:
            file, row = self._places[index]
            rows.append(_opened(file).get_slice(key)[row])
        return torch.stack(rows)


def batches(count: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size` that cover `count`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


@lru_cache(maxsize=512)
def _opened(file: Path) -> Any:
    # Kept open: the file is memory-mapped, and training reads it thousands of times.
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{str(file)!r} is damaged; delete it and record it again.") from error


def _prompts_of(file: Path) -> list[str]:
    try:
        return [str(text) for text in json.loads(_opened(file).metadata()["prompts"])]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{str(file)!r} is no shard of a recording; remove it.") from error


def _read_index(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(
            f"Folder {str(file.parent)!r} is no recording (no {file.name}); run gensift record."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{str(file)!r} is damaged ({error}); restore it.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{str(file)!r} holds no JSON object; restore it.")
    return found
