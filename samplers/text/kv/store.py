"""Keys and values of all positions, and forward passes of some of them."""

from __future__ import annotations

import torch
from torch import Tensor

from gensift.pipelines.attention import attend
from samplers.text.kv.protocol import LayeredModel


class PositionStore:
    """One tensor `(rows, positions, ...)` per layer and name, made when it is first written."""

    def __init__(self, num_positions: int) -> None:
        self._num_positions = num_positions
        self._kept: dict[tuple[str, int], Tensor] = {}

    def write(self, name: str, layer: int, rows: Tensor, index: Tensor, values: Tensor) -> None:
        """Put `values` `(rows, width, ...)` at `index`; what repeats must be equal."""
        if (name, layer) not in self._kept:
            shape = (len(rows), self._num_positions, *values.shape[2:])
            self._kept[name, layer] = values.new_zeros(shape)
        self._kept[name, layer][rows[:, None], index] = values

    def read(self, name: str, layer: int, rows: Tensor) -> Tensor:
        """All positions of some rows."""
        kept = self._kept[name, layer]
        is_all = len(rows) == len(kept) and bool(
            (rows == torch.arange(len(kept), device=rows.device)).all()
        )
        return kept if is_all else kept[rows]

    def select(self, rows: Tensor) -> None:
        """Keep some rows only."""
        self._kept = {key: values[rows] for key, values in self._kept.items()}


def run_layers(
    model: LayeredModel,
    store: PositionStore,
    rows: Tensor,
    tokens: Tensor,
    positions: Tensor,
    index: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Run some positions of some rows through all layers, and keep their keys and values.

    Args:
        model: whose layers.
        store: of keys and values; every position that `mask` shows must have been written.
        rows: int64 `(n,)`, rows of the store.
        tokens: int64 `(n, width)` at the positions.
        positions: int64 `(n, width)`, what the rotary embedding goes by.
        index: int64 `(n, width)`, where they lie in the sequence.
        mask: see `AttentionRule.mask`.

    Returns:
        `(n, width, model width)`, the last layer's output.
    """
    hidden, rotary = model.embed(tokens), model.rotary(positions)
    for number, layer in enumerate(model.layers):
        query, key, value = layer.project(hidden, rotary)
        store.write("key", number, rows, index, key)
        store.write("value", number, rows, index, value)
        keys, values = (store.read(name, number, rows) for name in ("key", "value"))
        hidden = layer.finish(hidden, attend(query, keys, values, mask))
    return hidden
