"""The comparison's arithmetic: equal budgets by brute force, paired gains by hand."""

import numpy as np
import pytest

import gensift
from benchmarks.results import interval
from benchmarks.search import Record, fitting, gain
from gensift.zoo.shapes.geneval import prompts_of
from samplers.diffusion.schedule import Prices, plan_stages, search_cost

PRICES = (Prices(step=2.0), Prices(step=2.0, verdict=7.0), Prices(step=1.0, verdict=30.0))


@pytest.mark.parametrize("prices", PRICES)
@pytest.mark.parametrize(("sampler", "steps"), [(gensift.TTSnap, 20), (gensift.BestOfN, 10)])
def test_as_many_candidates_as_fit_into_the_cost_of_best_of_n(prices, sampler, steps) -> None:
    checkpoints = sampler(None).checkpoints(steps)
    for budget in (4, 10, 20):
        allowed = search_cost(plan_stages((), 20, budget, 1), prices)
        costs = {
            n: search_cost(plan_stages(checkpoints, steps, n, 1), prices) for n in range(1, 99)
        }
        expected = max(n for n, cost in costs.items() if cost <= allowed)
        assert fitting(sampler, steps, prices, budget, 20) == expected


def test_gains_are_paired_and_categories_weigh_the_same() -> None:
    meanings = [*prompts_of("single", 1), *prompts_of("count", 3)]
    ours = Record(meanings=meanings, correct=[1.0, 1.0, 0.0, 1.0])
    theirs = Record(meanings=meanings, correct=[0.0, 1.0, 0.0, 0.0])
    found = gain(ours, theirs)
    assert found["geneval_mini"] == pytest.approx((1 + 1 / 3) / 2)
    low, high = found["interval_95"]
    assert low <= found["geneval_mini"] <= high
    assert gain(ours, ours)["interval_95"] == (0.0, 0.0)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        low, high = interval(rng.normal(1.0, 2.0, size=80), draws=300)
        covered.append(low <= 1.0 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.05)
