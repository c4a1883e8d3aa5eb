"""Every step is made by the stack of its own segment, on any schedule."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from gensift.errors import ConfigError
from gensift.pipelines.bfm.schedule import (
    SegmentSchedule,
    checked_boundaries,
    segment_of,
    spread_steps,
    uniform_boundaries,
)
from gensift.pipelines.bfm.timetable import Timetable

BY_HAND = {
    2: (1.0, 0.3, 0.0),
    3: (1.0, 0.9, 0.2, 0.0),
    4: (1.0, 0.7, 0.45, 0.1, 0.0),
    5: (1.0, 2 / 3, 1 / 3, 0.1, 0.03, 0.0),
    6: (1.0, 0.95, 0.8, 0.6, 0.35, 0.15, 0.0),
    7: (1.0, 6 / 7, 0.61, 0.6, 0.35, 0.15, 0.02, 0.0),
    8: (1.0, 0.99, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0),
}


def boundaries_of(kind: str, segments: int) -> tuple[float, ...]:
    return checked_boundaries(None if kind == "uniform" else BY_HAND[segments], segments)


@pytest.mark.parametrize("kind", ["uniform", "by hand"])
@pytest.mark.parametrize("segments", range(2, 9))
def test_all_boundaries_are_dispatched_right(kind: str, segments: int) -> None:
    """The carried index, and that found from a scheduler's float32 timestep, for 1 to 50 steps."""
    boundaries = boundaries_of(kind, segments)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    for count in range(1, 51):
        schedule = SegmentSchedule.of(boundaries, count)
        assert len(schedule.steps) == segments * count
        timetable = list(Timetable(scheduler, schedule))
        for index, (timestep, step) in enumerate(timetable):
            segment, inside = divmod(index, count)
            assert (step.segment, step.is_first) == (segment, inside == 0)
            assert segment_of(boundaries, float(timestep) / 1000) == segment
            high, low = boundaries[segment], boundaries[segment + 1]
            assert high >= step.sigma > step.sigma_next >= low
        assert all(a.sigma_next == b.sigma for a, b in pairwise(schedule.steps))
        starts = [step.sigma for step in schedule.steps if step.is_first]
        assert (*starts, schedule.steps[-1].sigma_next) == boundaries


def test_the_plain_rule_for_a_segment_is_wrong_at_half_of_the_boundaries() -> None:
    timesteps = torch.tensor(uniform_boundaries(6)[:-1]) * 1000
    plain = [int((1 - float(timestep) / 1000) * 6) for timestep in timesteps]
    assert sum(found != wanted for wanted, found in enumerate(plain)) == 3
    ours = [segment_of(uniform_boundaries(6), float(t) / 1000) for t in timesteps]
    assert ours == list(range(6))


def test_steps_may_differ_between_segments() -> None:
    schedule = SegmentSchedule.of(uniform_boundaries(2), [1, 3])
    assert [step.segment for step in schedule.steps] == [0, 1, 1, 1]
    assert schedule.sigmas == pytest.approx([1, 1 / 2, 1 / 3, 1 / 6])
    assert [step.is_last for step in schedule.steps] == [False, False, False, True]
    assert spread_steps(8, 3) == [3, 3, 2]


def test_the_last_step_of_the_stochastic_schedule_starts_at_the_end_of_noise() -> None:
    plain = SegmentSchedule.of(uniform_boundaries(2), 3)
    early = plain.ending_early()
    assert early.sigmas[:3] == plain.sigmas[:3]
    assert early.sigmas[3:] == pytest.approx([0.5, 0.27, 0.04])
    assert early.steps[-1].sigma_next == 0 and early.steps[-1].segment == 1
    assert all(a.sigma_next == b.sigma for a, b in pairwise(early.steps))
    single = SegmentSchedule.of(uniform_boundaries(2), 1)
    assert single.ending_early() == single
    low = SegmentSchedule.of((1.0, 0.03, 0.0), 2)
    assert low.ending_early() == low


@pytest.mark.parametrize(
    "given", [(1.0, 0.0), (1.0, 0.5, 0.5, 0.0), (0.9, 0.5, 0.2, 0.0), (1.0, 0.2, 0.5, 0.0)]
)
def test_wrong_boundaries_are_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"give 4 numbers that fall from 1\.0 to 0\.0"):
        checked_boundaries(given, 3)


def test_wrong_steps_are_refused() -> None:
    for wrong in (0, True, [1, 2], [1, 0, 2]):
        with pytest.raises(ConfigError, match="steps_per_segment"):
            SegmentSchedule.of(uniform_boundaries(3), wrong)
    with pytest.raises(ConfigError, match="a whole number from 3"):
        spread_steps(2, 3)
    with pytest.raises(ConfigError, match="from 1 for noise to 0"):
        segment_of(uniform_boundaries(2), 500.0)


@pytest.mark.parametrize("options", [{"shift": 3.0}, {"use_karras_sigmas": True}])
def test_schedulers_that_move_sigmas_are_refused(options: dict[str, object]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    with pytest.raises(ConfigError, match=r"use FlowMatchEulerDiscreteScheduler\(shift=1.0\)"):
        Timetable(scheduler, SegmentSchedule.of(uniform_boundaries(3), 4))
