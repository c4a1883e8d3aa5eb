from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers.tiny_schedulers import SCHEDULERS

from caches.clock import StepClock
from gensift.denoising.observer import observe_scheduler
from gensift.errors import ConfigError


class Told:
    """Counts how often it was called."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


@contextmanager
def following(
    scheduler: Any,
    on_start: Callable[[], None] = lambda: None,
    on_end: Callable[[], None] = lambda: None,
) -> Iterator[StepClock]:
    clock = StepClock(scheduler, on_start, on_end)
    try:
        yield clock
    finally:
        clock.stop()


def indices(clock: StepClock, scheduler: Any, start: int = 0, stop: int | None = None) -> list[int]:
    """The step index before each step of a denoising loop from the place `start` on."""
    sample, found = torch.ones(1, 4, 2, 2), []
    for timestep in scheduler.timesteps[start:stop]:
        found.append(clock.step_index)
        sample = scheduler.step(0.1 * sample, timestep, sample, return_dict=False)[0]
    return found


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_step_of_a_run_is_counted(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    extra = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    with following(scheduler) as clock:
        assert (clock.is_running, clock.runs, clock.num_steps) == (False, 0, 0)
        for run in (1, 2):
            scheduler.set_timesteps(5, **extra)
            assert (clock.is_running, clock.runs, clock.step_index) == (True, run, 0)
            assert clock.num_steps == len(scheduler.timesteps)
            assert indices(clock, scheduler) == list(range(clock.num_steps))
            assert (clock.is_running, clock.step_index) == (False, clock.num_steps)


def test_a_solver_that_evaluates_twice_per_step_has_so_many_steps() -> None:
    scheduler = SCHEDULERS["heun"]()
    with following(scheduler) as clock:
        scheduler.set_timesteps(5)
        assert clock.num_steps == 2 * 5 - 1


def test_the_schedule_is_made_when_the_start_is_told() -> None:
    scheduler, lengths = SCHEDULERS["flow-euler"](), list[int]()
    with following(scheduler, lambda: lengths.append(len(scheduler.timesteps))):
        scheduler.set_timesteps(3)
        scheduler.set_timesteps(sigmas=[0.9, 0.6, 0.4, 0.1])
    assert lengths == [3, 4]


def test_a_run_that_was_broken_off_does_not_count_for_the_next() -> None:
    scheduler, started, ended = SCHEDULERS["dpm++"](), Told(), Told()
    with following(scheduler, started, ended) as clock:
        scheduler.set_timesteps(5)
        assert indices(clock, scheduler, stop=2) == [0, 1]
        assert clock.is_running and ended.times == 0
        scheduler.set_timesteps(4)
        assert (clock.step_index, clock.num_steps) == (0, 4)
        assert indices(clock, scheduler) == [0, 1, 2, 3]
    assert started.times == clock.runs == 2 and ended.times == 1


@pytest.mark.parametrize("name", ["flow-euler", "dpm++", "euler", "unipc", "heun"])
def test_a_run_that_begins_in_the_middle_of_the_schedule(name: str) -> None:
    scheduler, ended = SCHEDULERS[name](), Told()
    with following(scheduler, on_end=ended) as clock:
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(2)
        assert indices(clock, scheduler, start=2) == list(range(2, clock.num_steps))
        assert not clock.is_running and ended.times == 1
        scheduler.set_timesteps(6)
        assert clock.step_index == 0


def test_nothing_else_may_watch_the_scheduler_at_the_start() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    with (
        observe_scheduler(scheduler, lambda event: None),
        pytest.raises(ConfigError, match=r"call disable_cache, before a cache is enabled\.$"),
    ):
        StepClock(scheduler, Told(), Told())
    with following(scheduler), pytest.raises(ConfigError, match="another cache"):
        StepClock(scheduler, Told(), Told())
    assert "step" not in vars(scheduler) and "set_timesteps" not in vars(scheduler)


def test_a_search_that_came_later_must_leave_first() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    with following(scheduler) as clock:
        with observe_scheduler(scheduler, lambda event: None):
            with pytest.raises(ConfigError, match=r"leave its block before the cache is disabled"):
                clock.stop()
            scheduler.set_timesteps(3)
            assert indices(clock, scheduler) == [0, 1, 2]
        scheduler.set_timesteps(3)
        assert indices(clock, scheduler) == [0, 1, 2]


@pytest.mark.parametrize("name", ["flow-euler", "dpm++", "pndm", "heun"])
def test_the_scheduler_is_as_before_once_it_stops(name: str) -> None:
    plain, scheduler = SCHEDULERS[name](), SCHEDULERS[name]()
    with following(scheduler):
        assert set(vars(scheduler)) == {
            *vars(plain),
            "step",
            "set_timesteps",
            "__reduce_ex__",  # by which it is copied as a plain one
        }
    assert vars(scheduler).keys() == vars(plain).keys()
    for run in (plain, scheduler):
        run.set_timesteps(4)
    assert torch.equal(plain.timesteps, scheduler.timesteps)
    # Bound methods are equal where the object and the function are.
    assert scheduler.step == type(scheduler).step.__get__(scheduler)
    assert scheduler.set_timesteps == type(scheduler).set_timesteps.__get__(scheduler)


def test_pipelines_see_the_signature_of_the_class() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    wanted = [inspect.signature(method) for method in (scheduler.set_timesteps, scheduler.step)]
    with following(scheduler):
        found = [inspect.signature(method) for method in (scheduler.set_timesteps, scheduler.step)]
    assert found == wanted


def test_copies_of_the_scheduler_are_not_followed() -> None:
    scheduler, started = SCHEDULERS["flow-euler"](), Told()
    with following(scheduler, started) as clock:
        scheduler.set_timesteps(4)
        indices(clock, scheduler, stop=1)
        twin = copy.deepcopy(scheduler)
        twin.set_timesteps(7)
        for timestep in twin.timesteps:
            twin.step(torch.ones(1, 2), timestep, torch.ones(1, 2))
        assert len(twin.timesteps) == 7 and len(scheduler.timesteps) == 4
        assert (clock.runs, clock.num_steps, clock.step_index) == (1, 4, 1)
        assert started.times == 1
    # A copy outlives the clock.
    twin.set_timesteps(2)
    twin.step(torch.ones(1, 2), twin.timesteps[0], torch.ones(1, 2))
    assert clock.runs == 1
