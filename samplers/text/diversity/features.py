"""Unit features and quality of samples, and the gradient of their logits.

Source: arXiv 2603.04893, code: FeatureExtractor and ODDStrategy; the closed form of the backward
pass is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.config import DiversityOptions
from samplers.text.diversity.gradient import TopShare
from samplers.text.diversity.maxima import row_maxima
from samplers.text.diversity.pooling import Pooled, pool
from samplers.text.diversity.rows import Rows

MIN_NORM = 1e-12


@dataclass(frozen=True)
class Quality:
    """How sure samples are.

    Attributes:
        values: float32 `(rows,)`, mean top-1 probability over open positions, 0 without any; 1
            where it is off.
        tokens: int64 `(rows, width)`, the most probable ones; None where it has no gradient.
        probabilities: float32 `(rows, width)`, theirs; None likewise.
    """

    values: Tensor
    tokens: Tensor | None = None
    probabilities: Tensor | None = None

    @classmethod
    def of(cls, rows: Rows, config: DiversityOptions) -> Quality:
        """The quality of rows."""
        if not config.quality:
            return cls(rows.visible.new_ones(len(rows.visible)))
        best, tokens = row_maxima(rows.visible)
        # In float64, so that it does not depend on how many closed positions are behind the open.
        mean = (best.double().sum(1) / rows.open_counts).float()
        return cls(mean, tokens, best) if config.quality_gradient else cls(mean)


@dataclass(frozen=True)
class Features:
    """What samples are compared by.

    Attributes:
        units: float32 `(rows, dimension)`, of norm 1 (0 for a row in which nothing counts).
        norms: float32 `(rows, 1)`, of the pooled vectors.
        quality: of each sample.
        pooled: the vectors before they were scaled.
        rows: whom they belong to.
    """

    units: Tensor
    norms: Tensor
    quality: Quality
    pooled: Pooled
    rows: Rows

    def vjp(self, by_units: Tensor, by_quality: Tensor) -> Tensor:
        """Gradient by the logits at open positions of a loss.

        It may be written over the probabilities of the rows: features have one gradient to give.

        Args:
            by_units: float32 `(rows, dimension)`, gradient of the loss by `units`.
            by_quality: float32 `(rows,)`, by the values of `quality`.

        Returns:
            Float32 `(rows, width, vocab)`.
        """
        # f = u / |u|: the part along f is lost.
        along = (by_units * self.units).sum(1, keepdim=True)
        by_vectors = (by_units - along * self.units) / self.norms
        top, quality = None, self.quality
        if quality.tokens is not None and quality.probabilities is not None:
            share = by_quality[:, None] / self.rows.open_counts[:, None]
            top = TopShare(quality.tokens, quality.probabilities, share)
        return self.pooled.vjp(by_vectors).by_logits(self.rows, top)


def extract(rows: Rows, config: DiversityOptions, embeddings: Tensor | None) -> Features:
    """The features of rows; `embeddings` are `(vocab, width)`, as in `pool`."""
    pooled = pool(rows, config.pooling, embeddings)
    norms = torch.linalg.vector_norm(pooled.vectors, dim=1, keepdim=True).clamp(min=MIN_NORM)
    return Features(pooled.vectors / norms, norms, Quality.of(rows, config), pooled, rows)
