"""Planning against the method page's worked values, brute force and counting by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensift.errors import ConfigError
from samplers.diffusion.schedule import (
    Checkpoint,
    PruningSchedule,
    UnitCosts,
    cost_per_candidate,
    denoising_steps,
    largest_search,
    num_scored,
    plan_stages,
    search_cost,
    survivors,
)

FLUX = UnitCosts(step=9.9, scoring=1.2)
SINGLE = (Checkpoint(2, 0.4), Checkpoint(6, 0.4), Checkpoint(11, 0.5))
JOINT = (Checkpoint(4, 0.4), Checkpoint(6, 0.5), Checkpoint(11, 0.6))


def test_worked_values_of_the_cost_formula() -> None:
    assert cost_per_candidate((), 20, FLUX) == pytest.approx(199.2)
    assert cost_per_candidate(SINGLE, 20, FLUX) == pytest.approx(61.764)
    assert cost_per_candidate(JOINT, 20, FLUX) == pytest.approx(78.888)
    assert int(2000 / 61.764) == 32 and int(2000 / 78.888) == 25


def test_the_official_formula_counts_one_call_too_few() -> None:
    single = cost_per_candidate(SINGLE, 20, FLUX, legacy=True)
    joint = cost_per_candidate(JOINT, 20, FLUX, legacy=True)
    assert (single, joint) == (pytest.approx(51.864), pytest.approx(68.988))
    assert (int(2000 / single), int(2000 / joint)) == (38, 28)
    assert cost_per_candidate((), 20, FLUX, legacy=True) == pytest.approx(199.2)


def test_keeping_all_costs_all_steps_and_a_verdict_per_round() -> None:
    keep_all = tuple(Checkpoint(c.step_index, 1.0) for c in SINGLE)
    assert cost_per_candidate(keep_all, 20, FLUX) == pytest.approx(20 * 9.9 + 4 * 1.2)


def test_rounding_goes_to_even_and_never_to_none() -> None:
    assert [survivors(n, 0.5) for n in (1, 3, 5, 7)] == [1, 2, 2, 4]
    assert survivors(3, 0.01) == 1


def test_published_survivors() -> None:
    stages = plan_stages(SINGLE, 20, 38, 1)
    assert [stage.alive for stage in stages] == [38, 15, 6, 3]
    # 38 candidates for 3 steps, 15 for 4, 6 for 5, 3 for the last 8.
    assert denoising_steps(stages) == 38 * 3 + 15 * 4 + 6 * 5 + 3 * 8
    assert num_scored(stages) == 38 + 15 + 6 + 3


@given(
    st.integers(2, 40),
    st.integers(1, 60),
    st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 1.0)), max_size=4),
)
def test_planned_steps_equal_a_step_by_step_count(
    num_steps: int, count: int, points: list[tuple[float, float]]
) -> None:
    points = sorted({round(f, 3): k for f, k in points}.items())
    schedule = PruningSchedule(tuple(f for f, _ in points), tuple(k for _, k in points))
    checkpoints = schedule.resolve(num_steps)
    ratios = {c.step_index: c.keep for c in checkpoints}
    alive, steps, scored = count, 0, 0
    for index in range(num_steps):
        steps += alive
        if index in ratios:
            scored += alive
            alive = max(1, round(alive * ratios[index]))
    stages = plan_stages(checkpoints, num_steps, count, 1)
    assert denoising_steps(stages) == steps
    assert num_scored(stages) == scored + alive


@given(st.integers(1, 3), st.floats(30, 5000))
def test_the_largest_search_fits_and_one_more_does_not(outputs: int, budget: float) -> None:
    def cost(count: int) -> float:
        return search_cost(plan_stages(SINGLE, 20, count, outputs), FLUX)

    if cost(outputs) > budget:
        with pytest.raises(ConfigError, match="below the cost"):
            largest_search(SINGLE, 20, outputs, FLUX, budget)
        return
    count = largest_search(SINGLE, 20, outputs, FLUX, budget)
    fitting = [n for n in range(outputs, count + 20) if cost(n) <= budget]
    assert count == max(fitting)


def test_fractions_follow_the_number_of_steps() -> None:
    schedule = PruningSchedule((0.3, 0.4, 0.6), (0.65, 0.65, 0.5))
    assert [c.step_index for c in schedule.resolve(20)] == [6, 8, 12]
    assert [c.step_index for c in schedule.resolve(50)] == [15, 20, 30]


def test_short_loops_merge_checkpoints_and_skip_the_last_step() -> None:
    schedule = PruningSchedule((0.3, 0.4, 0.9), (0.5, 0.5, 0.5))
    assert schedule.resolve(3) == (Checkpoint(1, 0.25),)
    assert schedule.resolve(1) == ()


@pytest.mark.parametrize(
    ("fractions", "keep", "problem"),
    [
        ((0.3,), (0.5, 0.5), "1 checkpoints but 2 keep ratios"),
        ((0.6, 0.3), (0.5, 0.5), "must ascend"),
        ((0.0,), (0.5,), "must ascend strictly within"),
        ((0.3,), (0.0,), "must lie in"),
        ((0.3,), (1.5,), "must lie in"),
    ],
)
def test_bad_schedules(fractions: tuple[float, ...], keep: tuple[float, ...], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PruningSchedule(fractions, keep)


def test_a_search_for_three_outputs_keeps_three_to_the_end() -> None:
    stages = plan_stages(SINGLE, 20, 10, 3)
    assert [(s.alive, s.kept) for s in stages] == [(10, 4), (4, 3), (3, 3), (3, 3)]
