"""SVDD: who is chosen among the children, and when. Whole runs: also test_fk_steering.py."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from helpers.resampling import SOLVERS, STEPS
from helpers.searches import PROMPT, contrast
from helpers.speaking_pipelines import SIZE, speaking

import gensift
from gensift.errors import ConfigError
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.config import SVDDConfig
from samplers.diffusion.svdd import SVDD, Chains


def chains(**options: Any) -> Chains:
    return Chains(SVDDConfig(**options), seeds=range(8))


def test_each_chain_goes_on_from_its_best_child() -> None:
    rewards = [1.0, 5.0, 3.0, 5.0, -2.0, -1.0, -3.0, -1.0]
    assert chains(children=4).parents(rewards) == [1] * 4 + [5] * 4  # ties to the lower one
    assert chains(children=2).parents(rewards) == [1, 1, 3, 3, 5, 5, 7, 7]
    assert chains(children=8).parents(rewards) == [1] * 8
    assert chains(children=1).parents(rewards) == list(range(8))


def test_children_without_a_finite_score_are_not_chosen() -> None:
    rewards = [-math.inf, 1.0, -math.inf, -math.inf, 0.0, 3.0, 2.0, -math.inf]
    for options in ({}, {"alpha": 1.0}, {"alpha": 1e-300}):
        found = chains(children=2, **options).parents(rewards)
        # The second chain has lost both children and joins the best of all.
        assert found[:4] == [1, 1, 5, 5] and found[6:] == [6, 6]


def test_children_are_drawn_by_the_exponential_of_their_reward() -> None:
    rewards, alpha, counts = [20.0, 21.0, 22.0, 22.5], 0.8, Counter[int]()
    some = chains(children=4, alpha=alpha)
    for _ in range(4000):
        counts[some.parents(rewards)[0]] += 1
    weights = [math.exp((r - 22.5) / alpha) for r in rewards]
    expected = [weight / sum(weights) for weight in weights]
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_choice_before_every_step_but_the_last(name: str) -> None:
    solver = SOLVERS[name]
    output = SVDD(contrast, num_candidates=6, children=3)(solver.pipe(), PROMPT, **solver.arguments)
    *early, final = output.trace.prompts[0].stages
    assert [stage.step_index for stage in early] == list(range(STEPS - 1))
    for stage in early:
        best = [max(range(at, at + 3), key=lambda c: stage.combined[c]) for at in (0, 3)]
        assert stage.parents == (best[0],) * 3 + (best[1],) * 3
        assert stage.kept == tuple(best)
    # Two children differ by the noise of a single step, two chains by that of all.
    assert len(set(final.combined)) >= 2
    assert output.rewards == [max(final.combined)]


@pytest.mark.parametrize(("every", "steps"), [(2, [1, 3, 5]), (3, [2, 5]), (7, [6]), (8, [])])
def test_a_choice_every_few_steps(every: int, steps: list[int]) -> None:
    search = SVDD(contrast, every=every)
    assert [point.step_index for point in search.checkpoints(STEPS)] == steps


def test_a_single_child_per_chain_is_best_of_n_bit_for_bit() -> None:
    solver = SOLVERS["Euler ancestral"]
    counts = {"num_candidates": 4, "num_outputs": 4}
    found = SVDD(contrast, children=1, **counts)(solver.pipe(), PROMPT, **solver.arguments)
    expected = BestOfN(contrast, **counts)(solver.pipe(), PROMPT, **solver.arguments)
    assert found.seeds == expected.seeds and found.rewards == expected.rewards
    assert (found.results[0].samples == expected.results[0].samples).all()


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 16),
        ({"children": 5}, 20),  # 16 asked for by default, in whole chains
        ({"children": 5, "num_candidates": 10}, 10),
        ({"budget": 100, "children": 5}, 15),  # 16 rows of 6 steps would fit
    ],
)
def test_rows_are_whole_chains(options: dict[str, Any], rows: int) -> None:
    plan = SVDD(contrast, **options).plan(speaking("flux"), 1, **SIZE)
    assert plan.num_candidates == rows and plan.cost.nfe == rows * SIZE["num_inference_steps"]


def test_broken_chains_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 is no multiple of `children` 4"):
        SVDD(contrast, num_candidates=6)
    with pytest.raises(ConfigError, match="pays for 3 rows, fewer than the 4 children"):
        SVDD(contrast, budget=20).plan(speaking("flux"), 1, **SIZE)
    pipe = speaking("flux")
    with pytest.raises(ConfigError, match="6 is no multiple"), gensift.attach(SVDD(contrast), pipe):
        pipe(PROMPT, num_images_per_prompt=6, **SIZE)
