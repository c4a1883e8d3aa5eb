"""Gradients by the probabilities of rows, and by the logits behind them.

Softmax turns a gradient g into P * (g - <P, g>), position by position; g is 0 for probabilities
that do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from samplers.text.diversity.rows import Rows


@dataclass(frozen=True)
class TopShare:
    """What the most probable tokens have on top of a gradient: that of a row's quality.

    Attributes:
        tokens: int64 `(rows, width)`, one of each position.
        probabilities: float32 `(rows, width)`, theirs.
        share: float32 `(rows, 1)`, the gradient by each of them.
    """

    tokens: Tensor
    probabilities: Tensor
    share: Tensor


class Gradient(Protocol):
    """By what is visible of rows."""

    def by_logits(self, rows: Rows, top: TopShare | None) -> Tensor:
        """Gradient by the logits, float32 `(rows, width, vocab)`.

        Args:
            rows: their probabilities may be overwritten, with the result.
            top: what the most probable tokens have on top.
        """
        ...


@dataclass(frozen=True)
class Dense:
    """One with an entry everywhere.

    Attributes:
        values: float32 `(rows, width, vocab)`, overwritten with the result.
    """

    values: Tensor

    def by_logits(self, rows: Rows, top: TopShare | None) -> Tensor:
        """Gradient by the logits, float32 `(rows, width, vocab)`; see `Gradient`."""
        if top is not None:
            share = top.share.expand_as(top.tokens)[..., None]
            self.values.scatter_add_(-1, top.tokens[..., None], share)
        weighted = self.values.mul_(rows.visible)
        return weighted.addcmul_(rows.probabilities, weighted.sum(-1, keepdim=True), value=-1)


@dataclass(frozen=True)
class Columns:
    """One with a single entry per token, elsewhere 0, of rows whose probabilities all count.

    Attributes:
        winners: int64 `(rows, vocab)`, which of the open positions has it.
        peaks: float32 `(rows, vocab)`, the probabilities there.
        values: float32 `(rows, vocab)`.
    """

    winners: Tensor
    peaks: Tensor
    values: Tensor

    def by_logits(self, rows: Rows, top: TopShare | None) -> Tensor:
        """Gradient by the logits, float32 `(rows, width, vocab)`; see `Gradient`."""
        dense = rows.probabilities
        # <P, g>. In float64, where the order of summation, open on GPUs, hardly shows.
        weighted = (self.peaks * self.values).double()
        sums = weighted.new_zeros(dense.shape[:2]).scatter_add_(1, self.winners, weighted)
        if top is not None:
            sums += top.probabilities * top.share
        means = sums.to(dense.dtype)
        dense.mul_(-means[..., None])
        entries = self.peaks * (self.values - means.gather(1, self.winners))
        dense.scatter_(1, self.winners[:, None], entries[:, None])
        if top is not None:
            # Last, as it has the sum of both where the two coincide.
            entries = top.probabilities * (self._at(top.tokens) + top.share - means)
            dense.scatter_(2, top.tokens[..., None], entries[..., None])
        return dense

    def _at(self, tokens: Tensor) -> Tensor:
        """Entries at one token of every open position, both `(rows, width)`."""
        slots = torch.arange(tokens.shape[1], device=tokens.device)
        is_winner = self.winners.gather(1, tokens) == slots
        return self.values.gather(1, tokens).where(is_winner, 0)
