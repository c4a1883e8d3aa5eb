"""Pictures encoded once, in safetensors files that training reads by memory mapping.

A file holds up to 1024 pictures in the order of their folder: `mean` and `std` float16 `(pictures,
channels, side, side)`, of the latents' posterior and normalised as the transformer takes them,
`labels` int64 `(pictures,)` and, where there is an encoder, `features` float16 `(pictures, tokens,
channels)`. Mirrored pictures lie in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from apps.training.bfm.features import FeatureEncoder
from apps.training.bfm.pictures import PictureFolder
from gensift.errors import ConfigError
from gensift.files import write_atomically
from gensift.pipelines.bfm.latents import encode_pictures

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_ROWS_PER_FILE = 1024
_ROWS_AT_ONCE = 32
_OPEN_FILES = 512


@dataclass(frozen=True)
class EncodedFile:
    """Which pictures a file holds, mirrored or not."""

    path: Path
    rows: range
    is_flipped: bool


def encoded_files(folder: Path, count: int, *, flips: bool) -> list[EncodedFile]:
    """All files of `count` pictures, those of mirrored ones last."""
    return [
        EncodedFile(
            folder / f"{'mirrored' if flipped else 'pictures'}-{number:05d}.safetensors",
            range(start, min(start + _ROWS_PER_FILE, count)),
            flipped,
        )
        for flipped in ((False, True) if flips else (False,))
        for number, start in enumerate(range(0, count, _ROWS_PER_FILE))
    ]


@dataclass(frozen=True)
class Encoding:
    """How pictures are encoded.

    Attributes:
        vae: an `AutoencoderKL`.
        features: encoder to align with, or None.
        image_size: side of the pictures that both see.
        grid: tokens of the flow model along a side.
    """

    vae: AutoencoderKL
    features: FeatureEncoder | None
    image_size: int
    grid: int

    @torch.no_grad()
    def encode(
        self, pictures: PictureFolder, file: EncodedFile, on_pictures: Callable[[int], None]
    ) -> None:
        """Write a file, complete or not at all; `on_pictures` is told how many are done.

        Raises:
            ConfigError: a picture cannot be read, or what a network says is not finite.
        """
        parts: list[dict[str, Tensor]] = []
        for start in range(file.rows.start, file.rows.stop, _ROWS_AT_ONCE):
            rows = range(start, min(start + _ROWS_AT_ONCE, file.rows.stop))
            pixels = pictures.read(rows, self.image_size)
            labels = torch.tensor([pictures.labels[row] for row in rows])
            parts.append(
                {"labels": labels, **self._of(pixels.flip(-1) if file.is_flipped else pixels)}
            )
            on_pictures(len(rows))
        tensors = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ConfigError(
                    f"The `{key}` of pictures {file.rows.start} to {file.rows.stop - 1} are not "
                    "finite in float16; check the VAE and the feature encoder."
                )
        write_atomically(file.path, save(tensors))

    def _of(self, pixels: Tensor) -> dict[str, Tensor]:
        mean, std = encode_pictures(self.vae, pixels)
        found = {"mean": mean, "std": std}
        if self.features is not None:
            found["features"] = self.features(pixels, self.grid)
        return {key: value.cpu().half() for key, value in found.items()}


class EncodedPictures:
    """What `Encoding` wrote; rows are the pictures in order, then the mirrored ones."""

    def __init__(self, files: list[EncodedFile], *, with_features: bool) -> None:
        """Open all files.

        Raises:
            ConfigError: one is missing or damaged.
        """
        self._files = files
        self._per_pass = max(file.rows.stop for file in files)
        self._with_features = with_features
        # Kept open: a batch takes rows of many of them.
        self._opened = lru_cache(maxsize=_OPEN_FILES)(_open)
        for file in files:
            self._check(file)

    def __len__(self) -> int:
        return sum(len(file.rows) for file in self._files)

    def draw(
        self, rows: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents drawn from their posteriors, labels and features of some rows, float32.

        `(rows, channels, side, side)`, int64 `(rows,)`, `(rows, tokens, channels)` or None.
        """
        places = [self._place(row) for row in rows.tolist()]
        mean, std = (self._gather(places, key).float() for key in ("mean", "std"))
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        features = self._gather(places, "features").float() if self._with_features else None
        return latents, self._gather(places, "labels"), features

    def _place(self, row: int) -> tuple[EncodedFile, int]:
        side, picture = divmod(row, self._per_pass)
        files_per_pass = -(-self._per_pass // _ROWS_PER_FILE)
        number, within = divmod(picture, _ROWS_PER_FILE)
        return self._files[side * files_per_pass + number], within

    def _gather(self, places: list[tuple[EncodedFile, int]], key: str) -> Tensor:
        return torch.stack([self._opened(f.path).get_slice(key)[row] for f, row in places])

    def _check(self, file: EncodedFile) -> None:
        wanted = {"mean", "std", "labels", *(["features"] if self._with_features else [])}
        opened = self._opened(file.path)
        if not wanted <= set(opened.keys()) or any(
            opened.get_slice(key).get_shape()[0] != len(file.rows) for key in wanted
        ):
            raise _damaged(file.path)


def missing_files(files: list[EncodedFile]) -> Iterator[EncodedFile]:
    """Those that are not written yet."""
    return (file for file in files if not file.path.exists())


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> ConfigError:
    return ConfigError(
        f"{str(path)!r} is damaged; delete it, and the same command encodes it again."
    )
