"""open_clip's evaluation transform as a differentiable function of a tensor batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, crop and normalise as `open_clip.transform.image_transform_v2` does for PIL pictures.

    It differs from the PIL path by 8-bit rounding only, and not at all without resizing.

    Attributes:
        size: (height, width) in pixels that the model takes.
        mean, std: per channel, for values in [0, 1].
        interpolation: always antialiased.
        resize_mode: "shortest" resizes until the picture covers `size` and crops the centre,
            "longest" until it fits into `size` and pads, "squash" ignores its proportions.
        fill: value in [0, 1] of the padding.
        clamp: cut off what bicubic resizing overshoots, as PIL does; float tensors keep it in
            torchvision.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill: float = 0.0
    clamp: bool = True

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Preprocess:
        """Read open_clip's `preprocess_cfg`; what it leaves out has open_clip's defaults."""
        from open_clip.transform import PreprocessCfg

        given = PreprocessCfg(**{key: config[key] for key in config if config[key] is not None})
        size = _per_item(given.size, 2)
        # open_clip resizes to a non-square input with its default, whatever the config says.
        is_fixed = given.resize_mode == "shortest" and size[0] != size[1]
        is_bilinear = given.interpolation == "bilinear" and not is_fixed
        return cls(
            size=(int(size[0]), int(size[1])),
            mean=_per_item(given.mean, 3),
            std=_per_item(given.std, 3),
            interpolation="bilinear" if is_bilinear else "bicubic",
            resize_mode=given.resize_mode,
            fill=given.fill_color / 255,
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare float32 `(batch, 3, height, width)` in [0, 1] as the model's input."""
        height, width = self._resized((images.shape[2], images.shape[3]))
        # One axis at a time, as PIL does: bicubic overshoots at edges, and PIL cuts that off twice.
        for size in ((images.shape[2], width), (height, width)):
            if size != images.shape[2:]:
                images = functional.interpolate(
                    images, size, mode=self.interpolation, align_corners=False, antialias=True
                )
                images = images.clamp(0, 1) if self.clamp else images
        images = _centre(images, self.size, self.fill)
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def _resized(self, given: Size) -> Size:
        """(height, width) after resizing, rounded as torchvision and open_clip each do."""
        if self.resize_mode == "squash":
            return self.size
        ratios = [have / want for have, want in zip(given, self.size, strict=True)]
        if self.resize_mode == "longest" or self.size[0] != self.size[1]:
            ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
            return round(given[0] / ratio), round(given[1] / ratio)
        side = self.size[0]
        longest = int(side * max(given) / min(given))
        return (side, longest) if given[0] <= given[1] else (longest, side)


def _per_item(value: float | Sequence[float], count: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    return values * count if len(values) == 1 else values


def _centre(images: Tensor, size: Size, fill: float) -> Tensor:
    """Pad to at least `size`, then cut its centre out."""
    missing = [max(want - have, 0) for want, have in zip(size, images.shape[2:], strict=True)]
    if any(missing):
        (above, left), (below, right) = zip(*((m // 2, (m + 1) // 2) for m in missing), strict=True)
        images = functional.pad(images, (left, right, above, below), value=fill)
    top, start = (
        round((have - want) / 2) for have, want in zip(images.shape[2:], size, strict=True)
    )
    return images[:, :, top : top + size[0], start : start + size[1]]
