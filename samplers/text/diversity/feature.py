"""Unit feature and quality of a sample, and the gradient of its logits.

Source: arXiv 2603.04893, code: FeatureExtractor and ODDStrategy; the closed form of the backward
pass is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.maxima import row_maxima
from samplers.text.diversity.pooling import Pooled, pool
from samplers.text.diversity.row import Row

MIN_NORM = 1e-12


@dataclass(frozen=True)
class Feature:
    """What a sample is compared by.

    Attributes:
        unit: float32 `(dimension,)`, of norm 1 (0 for a row in which nothing counts).
        norm: of the pooled vector.
        quality: mean top-1 probability over open positions, 0 without any; 1 where it is off.
        top_tokens: int64 `(open,)`, the most probable ones; `(0,)` where quality has no gradient.
        pooled: the vector before it was scaled.
        row: whom it belongs to.
    """

    unit: Tensor
    norm: Tensor
    quality: Tensor
    top_tokens: Tensor
    pooled: Pooled
    row: Row

    def vjp(self, by_unit: Tensor, by_quality: Tensor) -> Tensor:
        """Gradient by the logits, `(open, vocab)`, of a loss with these by `unit` and `quality`.

        It may be written over the probabilities of the row: a feature has one gradient to give.
        """
        # f = u / |u|: the part along f is lost.
        by_vector = (by_unit - (by_unit @ self.unit) * self.unit) / self.norm
        share = by_quality / len(self.row.positions)
        return self.pooled.vjp(by_vector).by_logits(self.row, self.top_tokens, share)


def extract(row: Row, config: DiversityConfig, embeddings: Tensor | None) -> Feature:
    """The feature of a row; `embeddings` as in `pool`."""
    pooled = pool(row, config.pooling, embeddings)
    norm = torch.linalg.vector_norm(pooled.vector).clamp(min=MIN_NORM)
    quality, top_tokens = _quality(row, config)
    return Feature(pooled.vector / norm, norm, quality, top_tokens, pooled, row)


def _quality(row: Row, config: DiversityConfig) -> tuple[Tensor, Tensor]:
    nowhere = row.positions[:0]
    if not config.quality:
        return row.visible.new_ones(()), nowhere
    if row.is_finished:
        return row.visible.new_zeros(()), nowhere
    values, tokens = row_maxima(row.visible)
    return values.mean(), tokens if config.quality_gradient else nowhere
