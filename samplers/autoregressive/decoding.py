"""Decoding candidates on the way and finished ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gensift.pipelines.next_scale.scales import Scale
from samplers.autoregressive.protocol import NextScaleModel


@dataclass
class StateDecoder:
    """Latents of a next-scale state to pictures.

    Attributes:
        model: a next-scale model.
        scale: token grid to decode at; None for the full one.
        keeps_pictures: whether to keep what is decoded.
        pictures: what was kept, in order, `(3, height, width)` each.
    """

    model: NextScaleModel
    scale: Scale | None = None
    keeps_pictures: bool = False
    pictures: list[Tensor] = field(default_factory=list)

    @property
    def is_tiny(self) -> bool:
        """Whether it decodes at reduced size."""
        return self.scale is not None

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `(rows, 3, height, width)` of `latents` `(rows, channels, H, W)` at once."""
        images = self.model.decode(latents, scale=self.scale)
        if self.keeps_pictures:
            self.pictures += images.unbind()
        return images


def reduced_scale(last: Scale, side: int | None) -> Scale | None:
    """The grid `last` shrunk until its longer side is `side`; None where that is no smaller."""
    if side is None or side >= max(last):
        return None
    height, width = (max(round(length * side / max(last)), 1) for length in last)
    return height, width


def distinct_rows(latents: Tensor, prompt_of_row: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows of `latents` `(rows, ...)` that differ, and for every row where its like is among them.

    Copies of one parent that drew the same tokens need not be decoded and scored twice.
    """
    seen: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    like: list[int] = []
    for row, prompt in enumerate(prompt_of_row):
        content = latents[row].contiguous().view(torch.uint8).cpu().numpy().tobytes()
        key = prompt, hashlib.blake2b(content, digest_size=16).digest()
        if key not in seen:
            seen[key] = len(first)
            first.append(row)
        like.append(seen[key])
    return first, like
