"""ERTACache's greedy policy: reuse as long as the error stays below a threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable

from numpy.typing import ArrayLike

from caches.planning.reuse_cost import allowed_costs
from gensift.errors import ConfigError


def reuse_below(
    cost: ArrayLike,
    threshold: float,
    *,
    must_update: Iterable[int] = (0,),
    max_reuse: int | None = None,
) -> tuple[int, ...]:
    """The update steps of a walk that reuses the last computed step wherever that costs little.

    Each step's error is compared with the threshold by itself. It is not accumulated over
    consecutive reuses, as TeaCache does: the distance to the last computed step grows with its age.

    Args:
        cost: float `(steps, steps)`; `cost[a, t]` is the error of reusing at step t what step a
            computed, for a < t (ERTACache: relative L1); infinity or NaN where that is forbidden.
        threshold: a reuse must cost strictly less; at infinity all that is allowed is reused.
        must_update: steps that are always computed; step 0 is one of them in any case.
        max_reuse: longest run of consecutive reuses; None for no limit.

    Raises:
        ConfigError: the threshold is NaN, or another argument is invalid.

    Source: ERTACache (arXiv 2508.21091), offline policy calibration.
    """
    if math.isnan(threshold):
        raise ConfigError("the threshold is NaN; give a number, such as 0.1 for relative errors.")
    allowed = allowed_costs(cost, must_update, max_reuse)
    updates = [0]
    for step in range(1, len(allowed)):
        if allowed[updates[-1], step] >= threshold:
            updates.append(step)
    return tuple(updates)
