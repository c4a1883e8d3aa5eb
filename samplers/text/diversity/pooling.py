"""From the positions of samples to one vector each, and gradients back.

Every pooling is a function that returns its result together with its vector-Jacobian product, so
no graph is built. `visible` stands for the probabilities that count.

Source: arXiv 2603.04893, code: FeatureExtractor. Unlike there, positions that are neither open nor
committed take no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.config import Pooling
from samplers.text.diversity.gradient import Columns, Dense, Gradient
from samplers.text.diversity.maxima import column_maxima
from samplers.text.diversity.rows import Rows

MIN_PERIOD = 64
"""Positions that at least go by in a quarter turn of the positional weights; as published."""


@dataclass(frozen=True)
class Pooled:
    """One vector for each sample.

    Attributes:
        vectors: float32 `(rows, dimension)`; 0 for a row in which nothing counts.
        vjp: from a gradient by `vectors` to one by `visible`.
    """

    vectors: Tensor
    vjp: Callable[[Tensor], Gradient]


def pool(rows: Rows, pooling: Pooling, embeddings: Tensor | None) -> Pooled:
    """The vectors of rows.

    Args:
        rows: with at least one open position in one of them if gradients are wanted.
        pooling: max, mean, or positional (weights cos and sin, two vectors in a row).
        embeddings: float32 `(vocab, channels)` to pool these; None to pool probabilities.
    """
    if pooling != "max":
        return _sum(rows, _mean_weights if pooling == "mean" else _positional_weights, embeddings)
    return _max(rows) if embeddings is None else _max_embedding(rows, embeddings)


def _max(rows: Rows) -> Pooled:
    """Largest over positions; of equal ones the first counts, as in `torch.max`."""
    peaks, winners = column_maxima(rows.visible)
    wins = _committed_wins(rows, peaks, winners)
    # A committed token is a one-hot: 1 in its own column. No probability is larger.
    vectors = peaks.scatter_reduce(1, rows.tokens, wins.to(peaks.dtype), "amax")

    def vjp(gradient: Tensor) -> Gradient:
        # Committed positions are constants.
        is_free = torch.ones_like(gradient)
        is_free.scatter_reduce_(1, rows.tokens, (~wins).to(peaks.dtype), "amin")
        gradient = gradient * is_free
        if rows.visible is rows.probabilities:
            return Columns(winners, peaks, gradient)
        dense = torch.zeros_like(rows.visible)
        return Dense(dense.scatter_(1, winners[:, None], gradient[:, None]))

    return Pooled(vectors, vjp)


def _committed_wins(rows: Rows, peaks: Tensor, winners: Tensor) -> Tensor:
    """Where a committed token is the maximum of its column, bool `(rows, length)`."""
    length = rows.tokens.shape[1]
    if rows.positions.shape[1] == 0:
        return rows.counts
    # Of several positions that have committed a token the first one counts.
    position = torch.arange(length, device=peaks.device)
    first = torch.full_like(winners, length)
    first.scatter_reduce_(1, rows.tokens, torch.where(rows.counts, position, length), "amin")
    open_at = rows.positions.gather(1, winners.gather(1, rows.tokens))
    is_first = first.gather(1, rows.tokens) < open_at
    return rows.counts & ((peaks.gather(1, rows.tokens) < 1) | is_first)


def _max_embedding(rows: Rows, embeddings: Tensor) -> Pooled:
    """Largest expected embedding per channel over open and committed positions."""
    length, width = rows.tokens.shape[1], rows.positions.shape[1]
    expected = torch.cat([rows.visible @ embeddings, embeddings[rows.tokens]], dim=1)
    counts = torch.cat([rows.is_open, rows.counts], dim=1)
    position = torch.arange(length, device=embeddings.device).expand_as(rows.tokens)
    order = torch.cat([rows.positions, position], dim=1).argsort(dim=1)
    in_order = order[..., None].expand_as(expected)
    expected = expected.masked_fill_(~counts[..., None], -torch.inf)
    maxima, winners = expected.gather(1, in_order).max(1)

    def vjp(gradient: Tensor) -> Gradient:
        scattered = torch.zeros_like(expected)
        scattered.scatter_(1, order.gather(1, winners)[:, None], gradient[:, None])
        return Dense(scattered[:, :width] @ embeddings.mT)

    return Pooled(maxima.masked_fill(maxima.isneginf(), 0), vjp)


Weigh = Callable[[Rows], tuple[Tensor, Tensor]]
"""Weights of open `(rows, width, sets)` and of committed `(rows, length, sets)` positions; 0 where
a position does not count."""


def _sum(rows: Rows, weigh: Weigh, embeddings: Tensor | None) -> Pooled:
    """Sums over positions with one or several sets of weights, one behind the other."""
    weights, committed = weigh(rows)
    # Sums and embeddings commute; summed first, few vectors are multiplied by the large table.
    sums = weights.mT @ rows.visible
    tokens = rows.tokens[:, None].expand(-1, sums.shape[1], -1)
    sums.scatter_add_(2, tokens, committed.mT)
    sums = sums if embeddings is None else sums @ embeddings

    def vjp(gradient: Tensor) -> Gradient:
        by_sum = gradient.view_as(sums)
        return Dense(weights @ (by_sum if embeddings is None else by_sum @ embeddings.mT))

    return Pooled(sums.flatten(1), vjp)


def _mean_weights(rows: Rows) -> tuple[Tensor, Tensor]:
    total = rows.is_open.sum(1, keepdim=True) + rows.counts.sum(1, keepdim=True)
    share = (1 / total.clamp(min=1))[..., None]
    return rows.is_open[..., None] * share, rows.counts[..., None] * share


def _positional_weights(rows: Rows) -> tuple[Tensor, Tensor]:
    length = rows.tokens.shape[1]
    position = torch.arange(length, device=rows.tokens.device)
    angles = position * (math.pi / 2 / max(MIN_PERIOD, length))
    turns = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return turns[rows.positions] * rows.is_open[..., None], turns * rows.counts[..., None]
