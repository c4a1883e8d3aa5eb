"""The comparison's arithmetic: what fits a budget by brute force, paired gains by hand."""

from typing import Any

import numpy as np
import pytest

import gensift
from benchmarks.contenders import Contender, Record, cost_in_units, gain, largest_count
from benchmarks.results import interval
from benchmarks.ttsnap_offline import offline
from gensift.cost import Cost
from gensift.zoo.shapes.geneval import prompts_of
from samplers.diffusion.schedule import Checkpoint, UnitCosts, plan_stages, search_cost
from samplers.tuning.pool import best_of_n_curve, equivalent_count
from samplers.tuning.recordings import ScoreTensors

PRICE = UnitCosts(step=2.0, scoring=7.0, preview=1.5)


@pytest.fixture(scope="module")
def setting() -> tuple[Any, dict[str, Any]]:
    rewards = {
        "noise-aware": gensift.load_reward("shapes-clip"),
        "plain": gensift.load_reward("shapes-clip", noise_aware=False),
    }
    return gensift.load_pipeline("shapes-flux"), rewards


def test_the_price_of_some_work_by_hand() -> None:
    cost = Cost(nfe=40, decodes=5, preview_decodes=3)
    assert cost_in_units(cost, PRICE, rows_per_step=2, outputs=1) == 20 * 2 + 3 * 1.5 + 4 * 7


@pytest.mark.parametrize(
    ("contender", "checkpoints"),
    [
        (Contender("best-of-n", "best-of-n"), ()),
        (Contender("ttsnap", "ttsnap"), (Checkpoint(5, 0.4), Checkpoint(8, 0.6))),
    ],
)
def test_as_many_candidates_as_the_exact_cost_allows(
    setting: tuple[Any, dict[str, Any]], contender: Contender, checkpoints: Any
) -> None:
    pipe, rewards = setting
    for budget in (100.0, 480.0):
        costs = [search_cost(plan_stages(checkpoints, 20, n, 1), PRICE) for n in range(1, 60)]
        expected = sum(cost <= budget for cost in costs)
        assert largest_count(contender, pipe, rewards, PRICE, budget) == expected


def test_perfect_early_scores_are_worth_all_candidates_they_pay_for() -> None:
    final = np.random.default_rng(0).normal(size=(40, 60))
    scores = ScoreTensors.single(np.repeat(final[:, :, None], 20, axis=2), final)
    pool = best_of_n_curve(final)
    curve = pool.mean(0)
    for row in offline(scores, (Checkpoint(4, 0.25),), PRICE, pool, draws=400):
        # With perfect foresight the best of all candidates wins.
        assert row["equivalent"] == pytest.approx(row["num_candidates"], rel=0.08)
        assert row["num_candidates"] > row["budget"]
        assert row["ratio"] == row["equivalent"] / row["budget"]
    assert equivalent_count(curve, float(curve[9])).count == pytest.approx(10)


def test_gains_are_paired_and_categories_weigh_the_same() -> None:
    meanings = [*prompts_of("single", 1), *prompts_of("count", 3)]
    ours = Record(meanings, [1.0, 1.0, 0.0, 1.0], rewards=[0.5, 0.6, 0.7, 0.8])
    theirs = Record(meanings, [0.0, 1.0, 0.0, 0.0], rewards=[0.4, 0.6, 0.7, 0.7])
    found = gain(ours, theirs)
    assert found["geneval_mini"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["reward"] == pytest.approx(0.05)
    low, high = found["geneval_mini_interval_95"]
    assert low <= found["geneval_mini"] <= high
    assert gain(ours, ours)["geneval_mini_interval_95"] == (0.0, 0.0)


def test_a_record_comes_back_from_its_file() -> None:
    record = Record(
        prompts_of("count", 2), [1.0, 0.0], [0.1, 0.2], [1.5, 1.6], Cost(nfe=3, decodes=2)
    )
    assert Record.from_dict(record.to_dict()) == record


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        low, high = interval(rng.normal(1.0, 2.0, size=80), draws=300)
        covered.append(low <= 1.0 <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.05)
