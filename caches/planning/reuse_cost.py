"""The matrix of reuse costs that update steps are planned on, with all limits written into it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caches.planning.positions import checked_positions
from gensift.errors import ConfigError

Floats = NDArray[np.float64]


def allowed_costs(cost: ArrayLike, must_update: Iterable[int], max_reuse: int | None) -> Floats:
    """A copy of `cost` in which every reuse that is not allowed costs infinity.

    Planners then need no other rule than to avoid infinity.

    Args:
        cost: float `(steps, steps)`; `cost[a, t]` is the price of reusing at step t what step a
            computed, for a < t. Infinity and NaN forbid that reuse. The rest is ignored.
        must_update: steps that are always computed; step 0 is one of them in any case.
        max_reuse: longest run of consecutive reuses; None for no limit.

    Returns:
        float64 `(steps, steps)`, infinite on and below the diagonal, free of NaN.

    Raises:
        ConfigError: `cost` is not square or holds minus infinity above the diagonal, `must_update`
            names a step that does not exist, or `max_reuse` is negative.
    """
    allowed = np.array(cost, dtype=np.float64)
    if allowed.ndim != 2 or allowed.shape[0] != allowed.shape[1] or allowed.size == 0:
        raise ConfigError(f"costs of shape {allowed.shape} were given; give (steps, steps).")
    if max_reuse is not None and max_reuse < 0:
        raise ConfigError(f"`max_reuse` is {max_reuse}; give 0 or more, or None for no limit.")
    steps = np.arange(len(allowed))
    age = steps - steps[:, None]
    allowed[np.isnan(allowed) | (age <= 0)] = np.inf
    if np.isneginf(allowed).any():
        raise ConfigError(
            "a reuse that costs minus infinity was given; costs are finite, "
            "or plus infinity or NaN where reuse is forbidden; replace it."
        )
    allowed[:, checked_positions("must_update", must_update, len(allowed))] = np.inf
    if max_reuse is not None:
        allowed[age > max_reuse] = np.inf
    return allowed
