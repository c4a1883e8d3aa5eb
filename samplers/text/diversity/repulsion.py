"""Moving the logits of a row along a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from samplers.text.diversity.config import DiversityConfig

MIN_PUSH = 1e-8


def push(
    logits: Tensor, gradient: Tensor, strength: Tensor, protected: Tensor, out: Tensor
) -> None:
    """Move against the gradient; the position that moves most moves by `strength` (L2 norm).

    Args:
        logits: `(open, vocab)`, of any float dtype.
        gradient: float32, of a loss by them; it is overwritten.
        strength: of the row, a scalar.
        protected: int64 `(tokens,)`, whose logits stay.
        out: takes the result, in the dtype of the logits.

    Source: arXiv 2603.04893, code: ODDStrategy._normalize_gradient.
    """
    gradient.index_fill_(-1, protected, 0)
    largest = torch.linalg.vector_norm(gradient, dim=-1).max().clamp(min=MIN_PUSH)
    torch.addcmul(logits, gradient, -strength / largest, out=out)


def gate(quality: Tensor, config: DiversityConfig) -> Tensor:
    """What the strength of a row is multiplied by.

    The push is normalised, so quality as a factor of the loss, as published, does not change it.
    """
    if config.gate == "none":
        return torch.ones_like(quality)
    if config.gate == "confidence":
        return quality
    return (quality >= config.gate_threshold).to(quality.dtype)
