"""Gradients by the probabilities of a row, and by the logits behind them.

Softmax turns a gradient g into P * (g - <P, g>), position by position; g is 0 for probabilities
that do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from samplers.text.diversity.row import Row


class Gradient(Protocol):
    """By what is visible of a row."""

    def by_logits(self, row: Row, tokens: Tensor, share: Tensor) -> Tensor:
        """Gradient by the logits, float32 `(open, vocab)`.

        Args:
            row: its probabilities may be overwritten, with the result.
            tokens: int64 `(open,)`, one of each position, or none at all.
            share: a scalar that the gradient by these has on top.
        """
        ...


@dataclass(frozen=True)
class Dense:
    """One with an entry everywhere.

    Attributes:
        values: float32 `(open, vocab)`, overwritten with the result.
    """

    values: Tensor

    def by_logits(self, row: Row, tokens: Tensor, share: Tensor) -> Tensor:
        """See `Gradient`."""
        self.values[torch.arange(len(tokens), device=tokens.device), tokens] += share
        weighted = self.values.mul_(row.visible)
        return weighted.addcmul_(row.probabilities, weighted.sum(-1, keepdim=True), value=-1)


@dataclass(frozen=True)
class Columns:
    """One with a single entry per token, elsewhere 0, of a row whose probabilities all count.

    Attributes:
        winners: int64 `(vocab,)`, which of the open positions has it.
        peaks: float32 `(vocab,)`, the probabilities there.
        values: float32 `(vocab,)`.
    """

    winners: Tensor
    peaks: Tensor
    values: Tensor

    def __getitem__(self, at: tuple[Tensor | int, Tensor | int]) -> Tensor:
        """Entries at these open positions and tokens."""
        position, token = at
        return torch.where(self.winners[token] == position, self.values[token], 0)

    def by_logits(self, row: Row, tokens: Tensor, share: Tensor) -> Tensor:
        """See `Gradient`."""
        dense, winners = row.probabilities, self.winners
        positions = torch.arange(len(tokens), device=tokens.device)
        tops, by_tops = dense[positions, tokens], self[positions, tokens] + share
        # <P, g>. In float64, where the order of summation, open on GPUs, hardly shows.
        sums = tops.new_zeros(len(dense), dtype=torch.float64)
        sums.index_add_(0, winners, (self.peaks * self.values).double())
        sums[: len(tokens)] += tops * share
        means = sums.to(tops.dtype)
        dense.mul_(-means[:, None])
        entries = self.peaks * (self.values - means[winners])
        dense.scatter_(0, winners[None], entries[None])
        # Last, as it has the sum of both where the two coincide.
        dense[positions, tokens] = tops * (by_tops - means[positions])
        return dense
