"""Orthogonalisation: per prompt, an orthonormal basis that grows sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 2
"""Of Gram-Schmidt: what rounding leaves behind in the first, the second removes."""


class Bases:
    """One basis per prompt, in float32; directions that a prompt lacks are 0.

    Args:
        history: float32 `(prompts, directions, dimension)`, orthonormal or 0, to begin with; it is
            copied.
        capacity: how many directions may be added to each.
    """

    def __init__(self, history: Tensor, capacity: int) -> None:
        prompts, self._count, dimension = history.shape
        self._table = history.new_zeros(prompts, self._count + capacity, dimension)
        self._table[:, : self._count] = history
        self._is_set = torch.zeros(self._table.shape[:2], dtype=torch.bool, device=history.device)
        self._is_set[:, : self._count] = history.any(-1)

    @property
    def is_empty(self) -> Tensor:
        """Which prompts have no direction yet, bool `(prompts,)`."""
        return ~self._is_set.any(-1)

    def directions(self, prompt: int) -> Tensor:
        """Float32 `(directions, dimension)` of one prompt, oldest first, none of them 0."""
        is_set = self._is_set[prompt]
        if bool(is_set.all()):
            return self._table[prompt]
        return self._table[prompt, is_set]

    def outside(self, vectors: Tensor, resolution: float) -> tuple[Tensor, Tensor]:
        """Unit directions of the parts of `vectors` that lie outside the spans.

        Args:
            vectors: float32 `(prompts, dimension)`.
            resolution: length up to which such a part counts as none.

        Returns:
            Float32 `(prompts, dimension)`, 0 where there is none; bool `(prompts,)`, where there is
            one.
        """
        known, residual = self._table[:, : self._count], vectors[:, None]
        for _ in range(SWEEPS):
            residual = residual - (residual @ known.mT) @ known
        norm = torch.linalg.vector_norm(residual[:, 0], dim=-1, keepdim=True)
        is_outside = norm > resolution
        return torch.where(is_outside, residual[:, 0] / norm, 0), is_outside[:, 0]

    def add(self, directions: Tensor, is_given: Tensor) -> None:
        """Add a direction to each basis.

        Args:
            directions: float32 `(prompts, dimension)`, of norm 1 and orthogonal to the basis; 0 for
                none.
            is_given: bool `(prompts,)`, false for none.
        """
        self._table[:, self._count] = directions
        self._is_set[:, self._count] = is_given
        self._count += 1
