"""Two-dimensional rotary positions: half of a head turns with the row, half with the column."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

BASE = 10000.0


@functools.lru_cache(maxsize=16)
def rotary_angles(rows: int, columns: int, head_dim: int, device: torch.device) -> Tensor:
    """Angles float32 `(rows * columns, head_dim / 2)` of a grid, row by row.

    Neighbouring channels are a pair, see `gensift.pipelines.next_scale.attention.rotate`.
    """
    half = head_dim // 2
    frequencies = BASE ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack([down, across], dim=-1).flatten(0, 1).float()
    return (grid[:, :, None] * frequencies).flatten(1).to(device)
