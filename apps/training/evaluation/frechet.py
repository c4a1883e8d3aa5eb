"""Frechet distance between sets of pictures, in the feature space of `shapes-clip`.

It is no FID: that is the same distance in the features of Inception, which has never seen such
pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BATCH = 256


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of two Gaussians fitted to features `(pictures, channels)`.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`, in float64. Too few pictures make it larger: it
    is above 0 for two samples of one distribution.

    Source: Heusel et al., arXiv 1706.08500, equation 6.
    """
    (mean, covariance), (other_mean, other) = _moments(first), _moments(second)
    # The eigenvalues of C1 C2 are those of C1^(1/2) C2 C1^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    shift = (mean - other_mean).square().sum()
    return float(shift + covariance.trace() + other.trace() - 2 * cross)


def shapes_features(encoder: Any, pictures: NDArray[np.uint8], batch_size: int = _BATCH) -> Tensor:
    """The vector of each uint8 picture `(pictures, 64, 64, 3)`: float32 `(pictures, channels)`.

    `encoder` is the `model` of `ShapesClipFeatures`.
    """
    parts = []
    for start in range(0, len(pictures), batch_size):
        pixels = torch.from_numpy(pictures[start : start + batch_size]).permute(0, 3, 1, 2)
        with torch.no_grad():
            parts.append(encoder(pixels.float() / 127.5 - 1)[0].float())
    return torch.cat(parts)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    values = features.double()
    return values.mean(0), values.T.cov()
