"""BAC's bubbling union: units whose stale output would spoil later feed-forwards update with them.

A feed-forward that is computed from the output of stale units stores a wrong result and spreads it
over all its reuses. So the units that vary most are updated whenever a later feed-forward is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from caches.planning.positions import checked_positions
from gensift.errors import ConfigError


@dataclass(frozen=True)
class Unit:
    """A part of a denoiser that is cached by itself, such as an attention.

    Attributes:
        layer: index of its layer in order of execution, counted through all kinds of layers.
        is_feed_forward: whether later units wait for its updates.
    """

    layer: int
    is_feed_forward: bool


def largest_variation(scores: ArrayLike, count: int) -> tuple[int, ...]:
    """Indices, rising, of the `count` units whose features vary most over a run.

    Of units with equal scores the earlier one is taken.

    Args:
        scores: finite float `(units,)`; BAC's l: the mean absolute difference of a unit's features
            between two steps, averaged over all pairs of steps.
        count: how many units, 0 to all.

    Raises:
        ConfigError: the scores are not such an array, or `count` exceeds them.

    Source: BAC (arXiv 2506.13456), block selection; candidates are all units, as in its results.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ConfigError(
            f"scores of shape {values.shape} were given; give one finite number per unit."
        )
    if not 0 <= count <= len(values):
        raise ConfigError(f"{count} units were asked for; give 0 to {len(values)}, all there are.")
    order = np.argsort(-values, kind="stable")
    return tuple(sorted(order[:count].tolist()))


def bubbling_union(
    updates: Sequence[Iterable[int]], units: Sequence[Unit], selected: Iterable[int]
) -> tuple[tuple[int, ...], ...]:
    """The update steps of all units once the selected ones follow the feed-forwards after them.

    A selected unit gets the steps of every feed-forward whose layer is its own or a later one; so
    the two feed-forwards of a joint layer, if selected, get each other's. Others stay as they are.
    Only original steps are added, but passing additions on would give the same: the feed-forwards
    after a feed-forward are among those after every unit before it.

    Args:
        updates: update steps of each unit.
        units: in order of execution, one for each entry of `updates`.
        selected: indices into `units`, one of them or more; none for no change.

    Returns:
        The new update steps of each unit, rising.

    Raises:
        ConfigError: the lengths differ, layers fall, or `selected` names no unit.

    Source: BAC (arXiv 2506.13456), bubbling union. The authors' code skips the union when a single
    unit is selected; here one unit works like any other number.
    """
    if len(updates) != len(units):
        raise ConfigError(
            f"update steps for {len(updates)} units were given; {len(units)} units are described; "
            "give one set of steps for each."
        )
    falls = [after.layer for before, after in pairwise(units) if after.layer < before.layer]
    if falls:
        raise ConfigError(
            f"layer {falls[0]} follows a later one; layers must not fall in order of execution; "
            "count them through the whole denoiser."
        )
    original = [frozenset(steps) for steps in updates]
    united = list(original)
    for index in checked_positions("selected", selected, len(units)):
        united[index] = original[index].union(
            *(
                original[other]
                for other, unit in enumerate(units)
                if unit.is_feed_forward and unit.layer >= units[index].layer
            )
        )
    return tuple(tuple(sorted(steps)) for steps in united)
