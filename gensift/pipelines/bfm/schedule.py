"""Which segment each step of a blockwise flow belongs to.

Time is sigma: 1 is noise, 0 is data, and sampling goes down. Segment `m` is
`(boundaries[m + 1], boundaries[m]]`; segment 0 is the noisiest. A schedule carries the index of
each step's segment: `floor((1 - sigma) * M)` of float32 sigmas is wrong at half of the boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gensift.errors import ConfigError

TOLERANCE = 1e-4
"""How far a sigma from elsewhere may be off; above the rounding of float32, below a step."""
MIN_WIDTH = 1e-2
"""Narrowest segment."""
STOCHASTIC_END = 0.04
"""Where the stochastic solver stops adding noise. Source: the released sampler."""


@dataclass(frozen=True)
class ScheduleStep:
    """One step, from `sigma` down to `sigma_next`.

    Attributes:
        segment: index of the stack that makes it, its end point included.
        is_first: whether it is the first one in its segment.
    """

    sigma: float
    sigma_next: float
    segment: int
    is_first: bool

    @property
    def is_last(self) -> bool:
        """Whether it ends at the data."""
        return self.sigma_next == 0


@dataclass(frozen=True)
class SegmentSchedule:
    """All steps of a run.

    Attributes:
        boundaries: one more than there are segments, from 1 down to 0.
        steps: in the order in which they are made.
    """

    boundaries: tuple[float, ...]
    steps: tuple[ScheduleStep, ...]

    @classmethod
    def of(
        cls, boundaries: Sequence[float], steps_per_segment: int | Sequence[int]
    ) -> SegmentSchedule:
        """Equal steps inside each segment.

        Raises:
            ConfigError: a number of steps is below 1, or there is not one for each segment.
        """
        counts = _counts(steps_per_segment, len(boundaries) - 1)
        steps = [
            step
            for segment, count in enumerate(counts)
            for step in _steps_inside(boundaries[segment], boundaries[segment + 1], segment, count)
        ]
        return cls(tuple(boundaries), tuple(steps))

    @property
    def sigmas(self) -> list[float]:
        """Where each step starts; the final 0 is left out."""
        return [step.sigma for step in self.steps]

    def width(self, segment: int) -> float:
        """How much sigma a segment spans."""
        return self.boundaries[segment] - self.boundaries[segment + 1]

    def ending_early(self, end: float = STOCHASTIC_END) -> SegmentSchedule:
        """The same number of steps, the last of them from `end` to 0.

        The last segment's other steps are spread over what is above `end`. With a single step
        there, or a last segment below `end`, nothing changes.
        """
        last = len(self.boundaries) - 2
        before = [step for step in self.steps if step.segment != last]
        count = len(self.steps) - len(before)
        if count == 1 or self.boundaries[last] <= end:
            return self
        spread = _steps_inside(self.boundaries[last], end, last, count - 1)
        return SegmentSchedule(
            self.boundaries, (*before, *spread, ScheduleStep(end, 0.0, last, False))
        )


def _steps_inside(start: float, end: float, segment: int, count: int) -> list[ScheduleStep]:
    # The ends are exact, so that neighbours meet in one number.
    sigmas = [start + (end - start) * (index / count) for index in range(count)] + [end]
    return [
        ScheduleStep(sigma, following, segment, index == 0)
        for index, (sigma, following) in enumerate(pairwise(sigmas))
    ]


def _counts(given: int | Sequence[int], num_segments: int) -> list[int]:
    counts = [given] * num_segments if isinstance(given, int) else list(given)
    if len(counts) != num_segments or not all(_is_count(count) for count in counts):
        raise ConfigError(
            f"`steps_per_segment` is {given!r}; give a whole number from 1, or one for each of "
            f"{num_segments} segments."
        )
    return counts


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def spread_steps(num_steps: int, num_segments: int) -> list[int]:
    """`num_steps` as evenly as possible over the segments, the noisiest first.

    Raises:
        ConfigError: there are fewer steps than segments.
    """
    if not _is_count(num_steps) or num_steps < num_segments:
        raise ConfigError(
            f"`num_inference_steps` is {num_steps!r}; a model of {num_segments} segments needs a "
            f"whole number from {num_segments}, one step in each."
        )
    each, rest = divmod(num_steps, num_segments)
    return [each + (segment < rest) for segment in range(num_segments)]


def uniform_boundaries(num_segments: int) -> tuple[float, ...]:
    """`1 - m / M` for m from 0 to M."""
    return tuple((num_segments - index) / num_segments for index in range(num_segments + 1))


def checked_boundaries(given: Sequence[float] | None, num_segments: int) -> tuple[float, ...]:
    """Boundaries made by hand, or uniform ones for None.

    Raises:
        ConfigError: they do not fall from 1 to 0, or are too few, too many or too close together.
    """
    if num_segments < 1:
        raise ConfigError(f"`num_segments` is {num_segments}; a model has at least 1.")
    if given is None:
        return uniform_boundaries(num_segments)
    boundaries = tuple(float(value) for value in given)
    falls = all(high - low >= MIN_WIDTH for high, low in pairwise(boundaries))
    if (
        len(boundaries) != num_segments + 1
        or boundaries[0] != 1
        or boundaries[-1] != 0
        or not falls
    ):
        raise ConfigError(
            f"`boundaries` are {list(boundaries)}; give {num_segments + 1} numbers that fall from "
            f"1.0 to 0.0 in steps of at least {MIN_WIDTH} for {num_segments} segments."
        )
    return boundaries


def segment_of(boundaries: Sequence[float], sigma: float) -> int:
    """The segment of a sigma from a caller that carries no index.

    A sigma that rounding has put next to a boundary counts as the boundary itself, where the lower
    segment starts; 0 belongs to the last.

    Raises:
        ConfigError: it lies outside of [0, 1].
    """
    if not -TOLERANCE <= sigma <= 1 + TOLERANCE:
        raise ConfigError(
            f"`timestep` is {sigma}; give sigma, from 1 for noise to 0 for data (the scheduler's "
            "timestep divided by 1000)."
        )
    reached = sum(sigma <= boundary + TOLERANCE for boundary in boundaries[:-1])
    return max(reached - 1, 0)
