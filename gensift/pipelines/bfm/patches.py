"""Latents as tokens and back, each token a square patch in the order (channel, row, column)."""

from __future__ import annotations

from torch import Tensor


def to_tokens(latents: Tensor, patch: int) -> Tensor:
    """`(rows, channels, height, width)` to `(rows, tokens, channels * patch * patch)`."""
    rows, channels, height, width = latents.shape
    grid = latents.view(rows, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def to_latents(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The way back, from `(rows, tokens, numbers)` to `(rows, channels, height, width)`.

    A token holds `channels * patch * patch` numbers; `height` and `width` are those of the latents.
    """
    grid = tokens.view(len(tokens), height // patch, width // patch, -1, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)
