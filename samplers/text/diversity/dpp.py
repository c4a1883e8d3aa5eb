"""Determinantal point process over the samples of a prompt: all repel each other at once.

Source: arXiv 2603.04893, code: DPPStrategy, after DiverseFlow.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUALITY_SCALE = 1.0
EPSILON = 1e-4


def dpp_gradient(features: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by features and by quality of -[logdet(L + e) - logdet(L + 1 + e)].

    L = K * (1 + s q q^T) elementwise, where K holds the cosines.

    Of the gradient by a feature, the part along that feature is left out: scaling loses it anyway.

    Args:
        features: float32 `(prompts, rows, dimension)`, of norm 1.
        quality: float32 `(prompts, rows)`.

    Returns:
        Both gradients, shaped as what they are by.
    """
    # Like samples make L nearly singular, and what tells them apart is a small difference of large
    # numbers: float64.
    units, wide = features.double(), quality.double()
    cosines = units @ units.mT
    weights = 1 + QUALITY_SCALE * wide[..., None] * wide[..., None, :]
    kernel = cosines * weights
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    # The gradient of logdet is the inverse.
    near = torch.linalg.inv(kernel + EPSILON * identity)
    far = torch.linalg.inv(kernel + (1 + EPSILON) * identity)
    by_kernel = far - near
    # Both factors of K are the features, and both of q q^T are q; all is symmetric.
    by_units = 2 * (by_kernel * weights) @ units
    by_units -= (by_units * units).sum(-1, keepdim=True) * units
    by_quality = 2 * QUALITY_SCALE * ((by_kernel * cosines) @ wide[..., None])[..., 0]
    return by_units.to(features.dtype), by_quality.to(quality.dtype)
