"""Decoding half-drawn and finished rows for a judge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class StateDecoder:
    """Latents of a next-scale state to pictures.

    Attributes:
        model: a next-scale model.
        scale: token grid to decode at; None for the full one.
        keeps_pictures: whether to keep what is decoded.
        pictures: what was kept, in order.
    """

    model: Any
    scale: tuple[int, int] | None = None
    keeps_pictures: bool = False
    pictures: list[Tensor] = field(default_factory=list)

    @property
    def is_tiny(self) -> bool:
        """Whether it decodes at reduced size."""
        return self.scale is not None

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of all rows at once."""
        images: Tensor = self.model.decode(latents, scale=self.scale)
        if self.keeps_pictures:
            self.pictures += images.unbind()
        return images


def reduced_scale(last: tuple[int, int], side: int | None) -> tuple[int, int] | None:
    """The grid `last` shrunk until its longer side is `side`; None where that is no smaller."""
    if side is None or side >= max(last):
        return None
    height, width = (max(round(length * side / max(last)), 1) for length in last)
    return height, width


def distinct_rows(latents: Tensor, prompt_of_row: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows that differ, and for every row the position of its like among them.

    Copies of one parent that drew the same tokens need not be decoded and judged twice.
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
