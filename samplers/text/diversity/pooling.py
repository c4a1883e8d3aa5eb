"""From the positions of a sample to one vector, and gradients back.

Every pooling is a function that returns its result together with its vector-Jacobian product, so
no graph of the whole batch is built. `visible` stands for the probabilities that count.

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
from samplers.text.diversity.row import Row

MIN_PERIOD = 64
"""Positions that at least go by in a quarter turn of the positional weights; as published."""


@dataclass(frozen=True)
class Pooled:
    """One vector for a sample.

    Attributes:
        vector: float32 `(dimension,)`.
        vjp: from a gradient by `vector` to one by `visible`.
    """

    vector: Tensor
    vjp: Callable[[Tensor], Gradient]


def pool(row: Row, pooling: Pooling, embeddings: Tensor | None) -> Pooled:
    """The vector of a row.

    Args:
        row: with at least one open position if gradients are wanted.
        pooling: max, mean, or positional (weights cos and sin, two vectors in a row).
        embeddings: float32 `(vocab, channels)` to pool these; None to pool probabilities.
    """
    if pooling != "max":
        return _sum(row, _mean_weights if pooling == "mean" else _positional_weights, embeddings)
    return _max(row) if embeddings is None else _max_embedding(row, embeddings)


def _max(row: Row) -> Pooled:
    """Largest over positions; of equal ones the first counts, as in `torch.max`."""
    tokens = row.committed_tokens
    if row.is_finished:
        vector = row.visible.new_zeros(row.visible.shape[1])
        return Pooled(vector.index_fill_(0, tokens, 1), lambda _: Dense(row.visible))
    peaks, winners = column_maxima(row.visible)
    # A committed token is a one-hot: 1 in its own column, at the first position that has it.
    first = torch.full_like(winners, row.length)
    first.scatter_reduce_(0, tokens, row.committed_positions, "amin")
    beats = (peaks[tokens] < 1) | (first[tokens] < row.positions[winners[tokens]])
    committed = tokens[beats]

    def vjp(gradient: Tensor) -> Gradient:
        # Settled positions are constants.
        gradient = gradient.index_fill(0, committed, 0)
        if row.visible is row.probabilities:
            return Columns(winners, peaks, gradient)
        return Dense(torch.zeros_like(row.visible).scatter_(0, winners[None], gradient[None]))

    return Pooled(peaks.index_fill(0, committed, 1), vjp)


def _max_embedding(row: Row, embeddings: Tensor) -> Pooled:
    """Largest expected embedding per channel over open and committed positions."""
    expected = torch.cat([row.visible @ embeddings, embeddings[row.committed_tokens]])
    order = torch.cat([row.positions, row.committed_positions]).argsort()
    if len(order) == 0:
        return Pooled(embeddings.new_zeros(embeddings.shape[1]), lambda _: Dense(row.visible))
    vector, winners = expected[order].max(0)

    def vjp(gradient: Tensor) -> Gradient:
        scattered = torch.zeros_like(expected).scatter_(0, order[winners][None], gradient[None])
        return Dense(scattered[: len(row.positions)] @ embeddings.mT)

    return Pooled(vector, vjp)


def _sum(row: Row, weigh: Callable[[Tensor, Row], Tensor], embeddings: Tensor | None) -> Pooled:
    """Sums over positions with one or several sets of weights, one behind the other."""
    weights = weigh(row.positions, row)
    # Sums and embeddings commute; summed first, few vectors are multiplied by the large table.
    sums = weights.mT @ row.visible
    sums.index_add_(1, row.committed_tokens, weigh(row.committed_positions, row).mT)
    sums = sums if embeddings is None else sums @ embeddings

    def vjp(gradient: Tensor) -> Gradient:
        by_sum = gradient.view_as(sums)
        return Dense(weights @ (by_sum if embeddings is None else by_sum @ embeddings.mT))

    return Pooled(sums.flatten(), vjp)


def _mean_weights(positions: Tensor, row: Row) -> Tensor:
    count = len(row.positions) + len(row.committed_positions)
    return torch.full((len(positions), 1), 1 / max(count, 1), device=positions.device)


def _positional_weights(positions: Tensor, row: Row) -> Tensor:
    angles = positions * (math.pi / 2 / max(MIN_PERIOD, row.length))
    return torch.stack([angles.cos(), angles.sin()], dim=-1)
