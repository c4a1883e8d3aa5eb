"""A folder of pictures, one subfolder per class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms  # type: ignore[import-untyped]

from gensift.errors import ConfigError

_READERS = 8
"""Threads that decode pictures; Pillow lets them run side by side."""


@dataclass(frozen=True)
class PictureFolder:
    """What was found.

    Attributes:
        folder: that holds the subfolders.
        classes: their names, sorted; the place of each is its label.
        files: all pictures, by class and name.
        labels: of each.
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> PictureFolder:
        """List a folder.

        Raises:
            ConfigError: it is not there, has no subfolder, or one without pictures; or classes
                differ by case alone, so that prompts could not tell them apart.
        """
        from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

        wanted = "give a folder with one subfolder of pictures for each class"
        if not folder.is_dir():
            raise ConfigError(f"{str(folder)!r} is no folder; {wanted}.")
        try:
            found = ImageFolder(str(folder))
        except (FileNotFoundError, OSError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ConfigError(f"{str(folder)!r}: {reason}; {wanted}.") from error
        lower = [name.casefold() for name in found.classes]
        for name in found.classes:
            if lower.count(name.casefold()) > 1:
                raise ConfigError(
                    f"{str(folder)!r} has several classes {name.casefold()!r} that differ by case "
                    "alone; prompts name classes without regard to it, so rename one."
                )
        files = tuple(Path(file) for file, _ in found.samples)
        return cls(folder, tuple(found.classes), files, tuple(label for _, label in found.samples))

    @property
    def digest(self) -> str:
        """Changes when pictures come, go or are renamed, wherever the folder is."""
        names = "\0".join(str(file.relative_to(self.folder)) for file in self.files)
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def read(self, indices: Sequence[int], size: int) -> Tensor:
        """Some pictures, float32 `(pictures, 3, size, size)` in [0, 1].

        Raises:
            ConfigError: one cannot be read.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            files = [self.files[index] for index in indices]
            return torch.stack(list(pool.map(partial(read_picture, size=size), files)))


def read_picture(file: Path, size: int) -> Tensor:
    """A picture, its shorter side scaled to `size`, its centre `(3, size, size)` in [0, 1].

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"Picture {str(file)!r} cannot be read ({reason}); mend or remove it."
        ) from error
    scaled = transforms.resize(picture, [size], transforms.InterpolationMode.BICUBIC)
    pixels: Tensor = transforms.pil_to_tensor(transforms.center_crop(scaled, [size, size]))
    return pixels.float() / 255
