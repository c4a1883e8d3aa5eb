"""The dynamic programme against enumeration of all schedules."""

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from caches.planning.segments import Segments, all_best_segments, best_anchors, best_segments
from caches.planning.threshold import reuse_below
from gensift.errors import ConfigError


@dataclass(frozen=True)
class Problem:
    cost: NDArray[np.float64]
    must_update: tuple[int, ...] = (0,)
    max_reuse: int | None = None

    def total(self, updates: tuple[int, ...]) -> float:
        """The objective by its definition; infinite where a limit is broken."""
        steps = len(self.cost)
        total = 0.0
        for first, end in pairwise((*updates, steps)):
            if self.max_reuse is not None and end - first - 1 > self.max_reuse:
                return np.inf
            for step in range(first + 1, end):
                costs = self.cost[first, step]
                if np.isnan(costs) or step in self.must_update:
                    return np.inf
                total += costs
        return total

    def enumerated(self) -> dict[int, Segments]:
        """The best schedules; `combinations` rises lexicographically and `min` takes the first."""
        steps = range(1, len(self.cost))
        found = {}
        for count in range(len(self.cost)):
            best = min(((0, *rest) for rest in combinations(steps, count)), key=self.total)
            if np.isfinite(self.total(best)):
                found[count + 1] = Segments(best, self.total(best))
        return found


def random_problem(seed: int, is_whole: bool) -> Problem:
    """Costs of either sign, some of them forbidden; limits in two of three problems each."""
    random = np.random.default_rng(seed)
    steps = int(random.integers(1, 9))
    # Small whole numbers tie often, and their sums are exact.
    cost = (
        random.integers(-2, 3, (steps, steps)) if is_whole else random.normal(size=(steps, steps))
    )
    cost = cost.astype(np.float64)
    holes = random.random(cost.shape) < random.choice([0.0, 0.2])
    cost[holes] = random.choice([np.nan, np.inf])
    must_update = random.choice(steps, size=random.integers(0, min(steps, 2) + 1), replace=False)
    max_reuse = (None, int(random.integers(0, 3)), int(random.integers(1, 6)))[seed % 3]
    return Problem(cost, tuple(must_update.tolist()), max_reuse)


def test_every_budget_is_the_optimum_and_ties_are_lexicographic() -> None:
    for seed in range(300):
        problem = random_problem(seed, is_whole=True)
        cost, must_update, max_reuse = problem.cost, problem.must_update, problem.max_reuse
        found = all_best_segments(cost, must_update=must_update, max_reuse=max_reuse)
        assert found == problem.enumerated()
        for updates, best in found.items():
            alone = best_segments(cost, updates, must_update=must_update, max_reuse=max_reuse)
            assert alone == best


def test_real_costs_reach_the_optimum_with_the_total_they_say() -> None:
    for seed in range(300):
        problem = random_problem(seed, is_whole=False)
        found = all_best_segments(
            problem.cost, must_update=problem.must_update, max_reuse=problem.max_reuse
        )
        expected = problem.enumerated()
        assert list(found) == list(expected)
        for updates, best in found.items():
            assert best.updates == expected[updates].updates
            assert best.total == pytest.approx(problem.total(best.updates), rel=1e-12, abs=1e-12)


def test_one_update_reuses_everything_and_all_updates_cost_nothing() -> None:
    cost = np.random.default_rng(0).normal(size=(6, 6))
    assert best_segments(cost, 1).updates == (0,)
    assert best_segments(cost, 1).total == pytest.approx(cost[0, 1:].sum())
    assert best_segments(cost, 6) == Segments(tuple(range(6)), 0.0)
    assert all_best_segments(np.array([[np.nan]])) == {1: Segments((0,), 0.0)}


def test_more_updates_never_cost_more_when_costs_are_not_negative() -> None:
    for seed in range(20):
        cost = np.random.default_rng(seed).exponential(size=(30, 30))
        totals = [best.total for best in all_best_segments(cost, max_reuse=9).values()]
        assert totals == sorted(totals, reverse=True)
        assert totals[-1] == 0


def test_the_greedy_policy_is_never_better_at_equal_budget() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        problem = Problem(np.abs(np.subtract.outer(*[random.normal(size=25).cumsum()] * 2)))
        best = all_best_segments(problem.cost)
        for threshold in (0.5, 1.0, 2.0):
            greedy = reuse_below(problem.cost, threshold)
            assert best[len(greedy)].total <= problem.total(greedy) * (1 + 1e-12)


def test_anchors_maximise_similarity_even_where_it_is_negative() -> None:
    for seed in range(30):
        similarity = np.random.default_rng(seed).uniform(-1, 0.2, (7, 7))
        expected = Problem(-similarity, (0, 4), 3).enumerated()
        for updates, best in expected.items():
            found = best_anchors(similarity, updates, must_update=(4,), max_reuse=3)
            assert found.updates == best.updates
            assert found.total == pytest.approx(-best.total)


def test_a_step_may_not_be_skipped_when_similarities_are_all_negative() -> None:
    # Impossible states that start from 0 would win against any negative similarity.
    similarity = -np.ones((5, 5))
    assert best_anchors(similarity, 2) == Segments((0, 1), -3.0)
    assert best_anchors(similarity, 5).total == 0


def test_the_size_of_real_runs_is_no_matter() -> None:
    # Only the anchors 0, 30 and 60 are free to reuse, for 30 steps each.
    cost = np.ones((100, 100))
    for anchor in (0, 30, 60):
        cost[anchor, anchor + 1 : anchor + 30] = 0
    assert best_segments(cost, 3) == Segments((0, 30, 60), 10.0)
    assert len(all_best_segments(cost)) == 100


def test_impossible_budgets_say_which_are_possible() -> None:
    cost = np.ones((12, 12))
    for updates in (-1, 0, 3, 13):
        with pytest.raises(
            ConfigError, match=rf"{updates} updates .*; 12 steps .* need 4 to 12; ask for that"
        ):
            best_segments(cost, updates, max_reuse=2)
