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
        text = json.dumps(dict(config), indent=2)
        wanted = json.loads(text)  # as it reads back: tuples have become lists
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(folder)
            if not index.exists():
                write_atomically(index, (text + "\n").encode())
        except OSError as error:
            raise RunFolderError(
                f"Folder {str(folder)!r} cannot be written ({error.strerror}); choose another."
            ) from error
        found = _read_index(index)
        differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        if differing:
            raise RunFolderError(
                f"Folder {str(folder)!r} holds a recording with another {', '.join(differing)}; "
                "repeat that command to resume it, or choose another folder."
            )

    def has(self, number: int) -> bool:
        """Whether shard `number` is finished."""
        return self._file(number).exists()

    def prompts(self, number: int) -> tuple[str, ...]:
        """Prompts of a finished shard.

        Raises:
            ConfigError: it is damaged, or no shard.
        """
        return _read_layout(_open(self._file(number)), self._file(number)).prompts

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
        # Kept open: files are memory-mapped, and training reads them thousands of times.
        self._opened = lru_cache(maxsize=512)(_open)
        layouts = {file: _read_layout(self._opened(file), file) for file in files}
        first = layouts[files[0]]
        for file, layout in layouts.items():
            if (layout.sigmas, layout.shapes) != (first.sigmas, first.shapes):
                raise ConfigError(
                    f"{str(file)!r} is of another recording than {files[0].name!r}; remove the one "
                    "that does not belong here."
                )
        self._places = [(f, row) for f in files for row in range(len(layouts[f].prompts))]
        self.prompts = tuple(text for file in files for text in layouts[file].prompts)
        self.sigmas = tuple(self._opened(files[0]).get_tensor("sigmas").tolist())
        self.num_images = first.shapes["seeds"][0]
        self.num_steps = len(self.sigmas)
        self.reward_names = tuple(
            sorted(key.removeprefix("scores/") for key in first.shapes if key.startswith("scores/"))
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
            rows.append(self._opened(file).get_slice(key)[row])
        return torch.stack(rows)


def batches(count: int, size: int) -> Iterator[range]:
    """Consecutive ranges of at most `size` that cover `count`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{str(file)!r} is damaged; delete it and record it again.") from error


@dataclass(frozen=True)
class _Layout:
    """Prompts, noise levels (to four digits), and shapes without the dimension of the prompts."""

    prompts: tuple[str, ...]
    sigmas: tuple[float, ...]
    shapes: Mapping[str, tuple[int, ...]]


def _read_layout(opened: Any, file: Path) -> _Layout:
    try:
        prompts = tuple(str(text) for text in json.loads(opened.metadata()["prompts"]))
        sigmas = tuple(round(sigma, 4) for sigma in opened.get_tensor("sigmas").tolist())
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{str(file)!r} is no shard of a recording; remove it.") from error
    shapes.pop("sigmas")
    pictures = {f"pictures/{step:03d}" for step in range(len(sigmas))}
    is_whole = shapes.keys() >= {"seeds", *pictures}
    if not is_whole or any(shape[:1] != (len(prompts),) for shape in shapes.values()):
        raise ConfigError(f"{str(file)!r} is damaged; delete it and record it again.")
    return _Layout(prompts, sigmas, {key: shape[1:] for key, shape in shapes.items()})


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
