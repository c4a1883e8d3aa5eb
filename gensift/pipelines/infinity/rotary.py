"""Two-dimensional rotary positions of Infinity's self-attention."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from gensift.pipelines.next_scale.scales import ScaleSchedule

BASE = 10000.0


@functools.lru_cache(maxsize=64)
def rotary_angles(
    schedule: ScaleSchedule, first: int, end: int, head_dim: int, device: torch.device
) -> Tensor:
    """Angles `(tokens, head_dim / 2)` of the scales `first` up to `end`.

    The first half turns with the row, the second with the column. Places are measured on the
    reference grid, so that the same place has nearly the same angles at every scale.
    """
    half = head_dim // 2
    frequencies = BASE ** (-torch.arange(0, half, 2, dtype=torch.float32) / half)
    tall, wide = schedule.reference
    angles = []
    for height, width in schedule.scales[first:end]:
        rows = (torch.arange(height) * (tall / height)).round()
        columns = (torch.arange(width) * (wide / width)).round()
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        angles.append((grid[:, :, None] * frequencies).flatten(1))
    return torch.cat(angles).to(device)
