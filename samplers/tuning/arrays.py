"""Arrays of scores, and what takes the place of a score that is not finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def lowest_if_broken(scores: Floats) -> Floats:
    """`scores` of any shape, -inf where they are not finite."""
    return np.where(np.isfinite(scores), scores, -np.inf)


def worst_if_broken(scores: Floats) -> Floats:
    """`scores` `(prompts, images)`; where they are not finite, the worst of the prompt."""
    worst = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True)
    return np.where(np.isfinite(scores), scores, worst)
