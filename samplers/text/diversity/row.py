"""One sample as the features see it: probabilities where it is open, tokens where committed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.candidates import Candidates

Slots = slice | Tensor
"""Where in the width of the candidates the open positions of a row lie, in order of position."""


@dataclass(frozen=True)
class Row:
    """One row, its positions ascending.

    Attributes:
        slots: of the open positions.
        positions: int64 `(open,)`, where in the response they lie.
        probabilities: float32 `(open, vocab)`, at temperature 1 whatever is sampled with.
        visible: the same, 0 outside the largest ones where only those count.
        committed_positions: int64 `(committed,)`.
        committed_tokens: int64 `(committed,)`.
        length: of the response.
    """

    slots: Slots
    positions: Tensor
    probabilities: Tensor
    visible: Tensor
    committed_positions: Tensor
    committed_tokens: Tensor
    length: int

    @property
    def is_finished(self) -> bool:
        """Whether no position is open."""
        return len(self.positions) == 0


def read_row(
    candidates: Candidates,
    index: int,
    logits: Tensor,
    *,
    top_k: int,
    dropped: Tensor,
    memory: Tensor | None = None,
) -> Row:
    """Row `index` of the candidates with these logits.

    Args:
        candidates: of one prompt.
        index: of the row.
        logits: of the row as they are by now, `(width, vocab)`.
        top_k: how many probabilities per position count; 0 for all.
        dropped: int64 `(tokens,)`, which do not count where they are committed.
        memory: float32 `(width, vocab)`, for the probabilities; None for fresh memory.
    """
    slots, positions = _open_slots(candidates, index)
    memory = None if memory is None else memory[: len(positions)]
    probabilities = torch.softmax(logits[slots], -1, dtype=torch.float32, out=memory)
    tokens = candidates.tokens[index]
    counts = candidates.is_committed[index] & ~torch.isin(tokens, dropped)
    committed = counts.nonzero()[:, 0]
    visible = _largest(probabilities, top_k) if top_k else probabilities
    committed_tokens = tokens[committed]
    return Row(slots, positions, probabilities, visible, committed, committed_tokens, len(tokens))


def _open_slots(candidates: Candidates, index: int) -> tuple[Slots, Tensor]:
    """Slots and positions of a row's open positions, by position."""
    slots = candidates.is_open[index].nonzero()[:, 0]
    positions, order = candidates.positions[index, slots].sort()
    slots = slots[order]
    # They mostly are the first ones and in order; a slice then spares a copy of the row.
    if torch.equal(slots, torch.arange(len(slots), device=slots.device)):
        return slice(len(slots)), positions
    return slots, positions


def _largest(probabilities: Tensor, top_k: int) -> Tensor:
    """The `top_k` largest of each position, not renormalised, as published; the others are 0."""
    values, tokens = probabilities.topk(min(top_k, probabilities.shape[-1]), dim=-1)
    return torch.zeros_like(probabilities).scatter_(-1, tokens, values)
