"""Keys and values of the scales so far, in buffers that are allocated once per population."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, `(branches, rows, positions, heads, head_dim)` each.

    With guidance there are two branches, the conditional one and the unconditional one, whose rows
    move together.

    Attributes:
        length: positions filled so far, the same in all layers.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        branches: int,
        rows: int,
        capacity: int,
        num_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.length = 0
        shape = (branches, rows, capacity, num_heads, head_dim)
        self._keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self._values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def rows(self) -> int:
        """Rows per branch."""
        return self._keys[0].shape[1]

    @property
    def branches(self) -> int:
        """Branches held."""
        return self._keys[0].shape[0]

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._keys[0].shape[2]

    def view(self, layer: int, part: slice) -> LayerCache:
        """The rows `part` of one layer."""
        return LayerCache(self._keys[layer][:, part], self._values[layer][:, part], self.length)

    def advance(self, positions: int) -> None:
        """Count `positions` as filled, once all layers and rows have written them."""
        self.length += positions

    def gather(self, rows: Sequence[int], capacity: int) -> None:
        """Let row `i` be a copy of row `rows[i]`, with room for `capacity` positions.

        Layer by layer, so that no more than one layer is held twice.
        """
        if list(rows) == list(range(self.rows)) and capacity <= self.capacity:
            return
        index = torch.tensor(rows, device=self._keys[0].device)
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                shape = (old.shape[0], len(rows), capacity, *old.shape[3:])
                new = old.new_empty(shape)
                filled = old[:, :, : self.length].index_select(1, index)
                new[:, :, : self.length] = filled
                buffers[layer] = new

    def drop_branch(self) -> None:
        """Forget the unconditional branch."""
        for buffers in (self._keys, self._values):
            for layer, old in enumerate(buffers):
                # A view would keep both branches in memory.
                buffers[layer] = old[:1].clone()


@dataclass(frozen=True)
class LayerCache:
    """Some rows of one layer: `(branches, rows, capacity, heads, head_dim)`, `start` filled."""

    keys: Tensor
    values: Tensor
    start: int

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `(branches * rows, n, heads, head_dim)` and return all positions so far."""
        end = self.start + keys.shape[1]
        found = []
        for buffer, new in ((self.keys, keys), (self.values, values)):
            buffer[:, :, self.start : end] = torch.unflatten(new, 0, buffer.shape[:2])
            found.append(buffer[:, :, :end].flatten(0, 1))
        return found[0], found[1]
