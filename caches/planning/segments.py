"""The update steps of a static cache at least total cost, exactly, for every number of updates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from caches.planning.reuse_cost import Floats, allowed_costs
from gensift.errors import ConfigError


@dataclass(frozen=True)
class Segments:
    """Update steps, each followed by the steps that reuse it.

    Attributes:
        updates: computed steps, rising from 0.
        total: sum over all reused steps of what was minimised or maximised.
    """

    updates: tuple[int, ...]
    total: float


def best_segments(
    cost: ArrayLike,
    updates: int,
    *,
    must_update: Iterable[int] = (0,),
    max_reuse: int | None = None,
) -> Segments:
    """The cheapest schedule with exactly `updates` computed steps.

    Of schedules whose float64 totals tie, the lexicographically smallest is returned: updates come
    as early as they can.

    Args:
        cost: float `(steps, steps)`; `cost[a, t]` is the price of reusing at step t what step a
            computed, for a < t; infinity or NaN where that is forbidden. May be negative. Diagonal
            and lower triangle are ignored: computing costs nothing.
        updates: number of computed steps, 1 to steps.
        must_update: steps that are always computed; step 0 is one of them in any case.
        max_reuse: longest run of consecutive reuses; None for no limit.

    Raises:
        ConfigError: no schedule with that many updates keeps the limits, or an argument is invalid.

    Source: the dynamic programme of BAC (arXiv 2506.13456, section on adaptive scheduling), which
    here starts from infinity for impossible states, so that negative terms are handled.
    """
    allowed = allowed_costs(cost, must_update, max_reuse)
    found = _solve(allowed, min(updates, len(allowed))).get(updates)
    if found is None:
        # Splitting off the last step of a run forbids nothing, so all larger counts are possible.
        least = min(_solve(allowed, len(allowed)))
        raise ConfigError(
            f"{updates} updates were asked for; {len(allowed)} steps within the limits given need "
            f"{least} to {len(allowed)}; ask for that many, or allow more reuses."
        )
    return found


def all_best_segments(
    cost: ArrayLike, *, must_update: Iterable[int] = (0,), max_reuse: int | None = None
) -> dict[int, Segments]:
    """The cheapest schedule for every number of updates that is possible, fewest first.

    Costs one run of the dynamic programme: K times K^2 additions for K steps. The arguments are
    those of `best_segments`. With costs of at least 0, more updates never cost more.

    Raises:
        ConfigError: an argument is invalid.
    """
    allowed = allowed_costs(cost, must_update, max_reuse)
    return _solve(allowed, len(allowed))


def best_anchors(
    similarity: ArrayLike,
    updates: int,
    *,
    must_update: Iterable[int] = (0,),
    max_reuse: int | None = None,
) -> Segments:
    """The schedule under which reused features are most similar to those they stand for.

    BAC's objective, in the form of its published results: the sum of the similarity between what
    each update computes (the anchor) and what every step that reuses it would have computed. It is
    `best_segments` on `-similarity`; `total` is the summed similarity of reused steps. Counting
    each update's similarity to itself would add the same number to all schedules.

    Args:
        similarity: float `(steps, steps)`, such as cosines in [-1, 1]; minus infinity or NaN
            forbids a reuse, plus infinity is refused. Only entries above the diagonal are read.
        updates: as in `best_segments`, like the other arguments and the errors.

    Source: BAC (arXiv 2506.13456), adaptive caching scheduler.
    """
    cost = -np.asarray(similarity, dtype=np.float64)
    found = best_segments(cost, updates, must_update=must_update, max_reuse=max_reuse)
    return Segments(found.updates, 0.0 - found.total)


def _solve(allowed: Floats, most: int) -> dict[int, Segments]:
    """The best schedules with up to `most` updates, by their number."""
    runs = _run_costs(allowed)
    steps = len(allowed)
    # least[j]: the lowest cost of steps j and later with the updates granted so far, of which the
    # first is step j. Without updates only the empty rest, j = steps, is possible.
    least = np.full(steps + 1, np.inf)
    least[steps] = 0.0
    following: list[list[int]] = []
    found = {}
    for updates in range(1, most + 1):
        options = runs + least
        # The first minimum is the earliest next update, hence the lexicographic rule.
        following.append(options.argmin(axis=1).tolist())
        least[:steps] = options.min(axis=1)
        least[steps] = np.inf
        if np.isfinite(least[0]):
            found[updates] = Segments(_follow(following), float(least[0]))
    return found


def _run_costs(allowed: Floats) -> Floats:
    """`(steps, steps + 1)`: the cost of computing step a and reusing it until before step e."""
    steps = len(allowed)
    runs = np.full((steps, steps + 1), np.inf)
    runs[:, 1:] = np.cumsum(np.triu(allowed, 1), axis=1)
    runs[np.arange(steps + 1) <= np.arange(steps)[:, None]] = np.inf
    return runs


def _follow(following: list[list[int]]) -> tuple[int, ...]:
    """The updates from step 0 on; `following[n][j]` comes after j when n more are to come."""
    updates = [0]
    for table in reversed(following[1:]):
        updates.append(table[updates[-1]])
    return tuple(updates)
