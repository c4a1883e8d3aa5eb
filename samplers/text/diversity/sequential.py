"""Strategies that go through the samples in order and push each away from those before it.

Source: arXiv 2603.04893, section 3 and code: ODDStrategy, OrthogonalProjectionStrategy,
RandomProbeStrategy. The rule for duplicates is ours, see `DiversityConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.basis import Basis
from samplers.text.diversity.config import OnDuplicate
from samplers.text.diversity.feature import Feature
from samplers.text.diversity.noise import random_directions
from samplers.text.diversity.rows import Rows

RESOLUTION = 1e-3
"""Part of a unit feature outside the span up to which it is a duplicate: well above the rounding
of float32, well below what tells samples apart."""
OFFICIAL_RESOLUTION = 1e-6


@dataclass(frozen=True)
class Sequential:
    """A strategy of this kind.

    Attributes:
        aim: from a feature, the basis, the rule for duplicates, seed and step to the unit vector
            orthogonal to the basis along which the feature is to grow; None for no push.
        remembers_update: whether later samples avoid where a sample was pushed to (true) or the
            direction it was pushed along (false).
    """

    aim: Callable[[Feature, Basis, OnDuplicate, int, int], Tensor | None]
    remembers_update: bool


def push_in_order(rows: Rows, basis: Basis, strategy: Sequential) -> Tensor:
    """Push row by row, let each add to the basis, and return their qualities `(rows,)`."""
    return torch.stack([_visit(rows, index, basis, strategy) for index in range(len(rows))])


def _visit(rows: Rows, index: int, basis: Basis, strategy: Sequential) -> Tensor:
    """Push one row if it may be, and return its quality."""
    # A feature holds all probabilities of its row; here it is gone before the next one is made.
    feature = rows.feature(index)
    limit = resolution(rows.config.on_duplicate)
    if len(basis) and rows.may_push(index, feature):
        direction = _push(rows, index, feature, basis, strategy)
        if strategy.remembers_update:
            direction = basis.outside(rows.feature(index).unit, limit)
    else:
        direction = basis.outside(feature.unit, limit)
    if direction is not None:
        basis.add(direction)
    return feature.quality


def _push(
    rows: Rows, index: int, feature: Feature, basis: Basis, strategy: Sequential
) -> Tensor | None:
    """Push one row; returns the direction along which its feature grew."""
    candidates = rows.candidates
    seed, step = candidates.seeds[index], candidates.step
    direction = strategy.aim(feature, basis, rows.config.on_duplicate, seed, step)
    if direction is not None:
        # The loss is -q <f, d>, where d is a constant.
        by_unit, by_quality = -feature.quality * direction, -(feature.unit @ direction)
        rows.push(index, feature, by_unit, by_quality)
    return direction


def resolution(on_duplicate: OnDuplicate) -> float:
    """Part of a unit feature outside the span up to which it is a duplicate."""
    return OFFICIAL_RESOLUTION if on_duplicate == "official" else RESOLUTION


def _farthest(
    feature: Feature, basis: Basis, on_duplicate: OnDuplicate, seed: int, step: int
) -> Tensor | None:
    """Straight away from the span; for a duplicate as the rule says."""
    direction = basis.outside(feature.unit, resolution(on_duplicate))
    if direction is not None or on_duplicate != "random":
        return direction
    # Weighted by the row's own vector, so that it parts among tokens that are plausible.
    return basis.outside(random_directions(feature.unit[None], [seed], step)[0], RESOLUTION)


def _probe(
    feature: Feature, basis: Basis, on_duplicate: OnDuplicate, seed: int, step: int
) -> Tensor | None:
    """Along random noise outside the span."""
    noise = random_directions(torch.ones_like(feature.unit)[None], [seed], step)[0]
    return basis.outside(noise, resolution(on_duplicate))


SEQUENTIAL: Mapping[str, Sequential] = {
    "odd": Sequential(_farthest, remembers_update=False),
    "orthogonal-projection": Sequential(_farthest, remembers_update=True),
    "random-probe": Sequential(_probe, remembers_update=True),
}
