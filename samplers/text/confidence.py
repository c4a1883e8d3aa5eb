"""How sure the model is of what it proposes: what decides which positions are committed first."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gensift.pipelines.llada.sampling import probability_of

Confidence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits `(rows, width, vocabulary)`, proposed tokens, uniform numbers, both `(rows, width)`) ->
float32 `(rows, width)`, higher is committed earlier."""


def probability(logits: Tensor, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Probability of the proposed token, `(rows, width)`. Source: LLaDA, "low_confidence"."""
    return probability_of(logits, tokens)


def margin(logits: Tensor, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Lead of the most probable token, `(rows, width)`. Source: Dream, "topk_margin"."""
    best, second = torch.softmax(logits.float(), dim=-1).topk(2, dim=-1).values.unbind(-1)
    lead: Tensor = best - second
    return lead


def entropy(logits: Tensor, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Negative entropy, at most 0, `(rows, width)`. Source: Dream, "entropy"."""
    shares = torch.log_softmax(logits.float(), dim=-1).exp()
    total: Tensor = torch.special.xlogy(shares, shares).sum(-1)
    return total


def random(logits: Tensor, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Chance, `(rows, width)`: any order is as good as another. Source: LLaDA, "random"."""
    return uniforms.float()


CONFIDENCES: Mapping[str, Confidence] = {
    "probability": probability,
    "margin": margin,
    "entropy": entropy,
    "random": random,
}
