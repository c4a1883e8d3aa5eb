"""An orthonormal basis that grows sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 2
"""Of Gram-Schmidt: what rounding leaves behind in the first, the second removes."""


class Basis:
    """Orthonormal directions in float32.

    Args:
        history: float32 `(directions, dimension)`, orthonormal, to begin with; it is copied.
        capacity: how many directions may be added.
    """

    def __init__(self, history: Tensor, capacity: int) -> None:
        self._count = len(history)
        self._table = history.new_zeros(self._count + capacity, history.shape[1])
        self._table[: self._count] = history

    def __len__(self) -> int:
        return self._count

    @property
    def directions(self) -> Tensor:
        """Float32 `(directions, dimension)`, oldest first."""
        return self._table[: self._count]

    def outside(self, vector: Tensor, resolution: float) -> Tensor | None:
        """Unit direction of the part of `vector` outside the span; None if no longer than this."""
        residual = vector
        for _ in range(SWEEPS):
            residual = residual - (self.directions @ residual) @ self.directions
        norm = torch.linalg.vector_norm(residual)
        return residual / norm if bool(norm > resolution) else None

    def add(self, direction: Tensor) -> None:
        """Add a unit direction that is orthogonal to all others."""
        self._table[self._count] = direction
        self._count += 1
