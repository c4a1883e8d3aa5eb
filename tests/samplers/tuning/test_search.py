"""The tuner promises only what holds on prompts that it has not seen."""

import numpy as np
import pytest

from gensift.errors import ConfigError
from samplers.diffusion.schedule import Checkpoint, UnitCosts, largest_search
from samplers.tuning.candidates import KEEP, Grid
from samplers.tuning.pool import best_of_n_curve
from samplers.tuning.recordings import RewardScores, ScoreTensors
from samplers.tuning.search import Recommendation, TuneConfig, _Tuner, tune
from samplers.tuning.simulation import simulate

FLUX = UnitCosts(step=9.9, scoring=1.2)
STEPS = 8
ONE = STEPS * 9.9 + 1.2  # one candidate of best-of-N


def world(prompts: int, images: int, noise: float, seed: int) -> ScoreTensors:
    """Final scores, seen early through noise that fades; the same noise at each step."""
    rng = np.random.default_rng(seed)
    final, blur = rng.normal(size=(2, prompts, images, 1))
    early = final + noise * blur * np.linspace(1, 0, STEPS)
    return ScoreTensors.single(early, final[:, :, 0])


def part_of(scores: ScoreTensors, prompts: np.ndarray) -> ScoreTensors:
    return ScoreTensors(
        {n: RewardScores(s.early[prompts], s.final[prompts]) for n, s in scores.rewards.items()}
    )


def tuned(scores: ScoreTensors, **changes: object) -> Recommendation:
    return tune(scores, FLUX, TuneConfig(**{"budget": 8 * ONE, "folds": 4, **changes}))


def true_gain(scores: ScoreTensors, found: Recommendation) -> float:
    reward = simulate(scores, found.checkpoints, found.num_candidates, num_draws=60, seed=9)
    plain = best_of_n_curve(scores.values())[:, found.best_of_n - 1]
    return float((reward - plain).mean())


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_is_not_worth_pruning_by(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = ScoreTensors.single(rng.normal(size=(30, 40, STEPS)), rng.normal(size=(30, 40)))
    found = tuned(scores, seed=seed)
    assert not found.prunes and found.checkpoints == ()
    assert found.num_candidates == found.best_of_n == 8
    assert found.equivalent.count == pytest.approx(8)
    assert found.omega is None and found.reason


def test_perfect_early_scores_are_used_at_once_and_as_brute_force_says() -> None:
    scores = world(30, 120, 0.0, 1)
    found = tuned(scores, max_checkpoints=1)
    budget = 8 * ONE
    every = [(Checkpoint(step, keep),) for step in range(STEPS - 1) for keep in KEEP]
    counts = [largest_search(schedule, STEPS, 1, FLUX, budget) for schedule in every]
    assert found.checkpoints[0].step_index == 0
    assert found.num_candidates == max(counts)
    # Perfect scores lose nobody: the search is worth all the candidates that it began with.
    assert found.equivalent.count == pytest.approx(max(counts), rel=0.05)
    assert found.gain is not None and found.gain.low > 0


def test_the_predicted_gain_holds_on_new_prompts() -> None:
    found = tuned(world(80, 60, 1.5, 0))
    assert found.prunes and found.gain is not None and found.omega is not None
    fresh = true_gain(world(800, 60, 1.5, 1), found)
    assert found.gain.low < fresh < found.gain.high
    assert found.omega.percent > 0
    assert found.cost <= 8 * ONE


@pytest.mark.parametrize("split", range(5))
def test_what_is_recommended_never_loses_on_held_out_prompts(split: int) -> None:
    scores = world(80, 60, 3.0, 5)
    order = np.random.default_rng(split).permutation(80)
    found = tuned(part_of(scores, order[:40]), seed=split, max_checkpoints=2)
    held_out = part_of(scores, order[40:])
    assert not found.prunes or true_gain(held_out, found) > 0


def test_a_choice_looks_at_no_other_prompts() -> None:
    scores, other = world(20, 40, 1.0, 0), world(20, 40, 1.0, 1)
    mixed = world(20, 40, 1.0, 0)
    for array, source in zip(
        (mixed.rewards["reward"].early, mixed.rewards["reward"].final),
        (other.rewards["reward"].early, other.rewards["reward"].final),
        strict=True,
    ):
        array[10:] = source[10:]
    config = TuneConfig(budget=8 * ONE, max_checkpoints=2)
    seen = np.arange(10)
    assert _Tuner(scores, FLUX, config).choose(seen) == _Tuner(mixed, FLUX, config).choose(seen)


def test_the_same_seed_recommends_the_same() -> None:
    scores = world(20, 40, 1.0, 0)
    first, second = (tuned(scores, seed=3, max_checkpoints=1) for _ in range(2))
    assert first == second


def test_several_rewards_are_tuned_by_rank_sum() -> None:
    first, second = world(30, 60, 0.3, 0), world(30, 60, 0.3, 1)
    both = ScoreTensors({"a": first.rewards["reward"], "b": second.rewards["reward"]})
    found = tuned(both, max_checkpoints=1)
    assert found.prunes and found.gain is not None
    assert 0 < found.best_of_n_reward < 1
    assert found.equivalent.count > found.best_of_n


def test_cheap_early_looks_make_room_for_more_candidates() -> None:
    scores = world(30, 80, 0.0, 0)
    config = TuneConfig(budget=8 * ONE, max_checkpoints=1, folds=2)
    dear, cheap = (
        tune(scores, UnitCosts(step=9.9, scoring=9.9, preview=costs), config)
        for costs in (9.9, 0.5)
    )
    assert cheap.num_candidates > dear.num_candidates


def test_schedules_beyond_the_pool_are_counted() -> None:
    found = tuned(world(20, 20, 0.0, 0))
    assert found.skipped > 0 and found.num_candidates <= 20


@pytest.mark.parametrize(
    ("shape", "changes", "problem"),
    [
        ((1, 40), {}, "scores of 1 prompt; .* at least 2"),
        ((5, 7), {}, "best-of-8, but there are 7 images per prompt; record more"),
        ((5, 40), {"budget": 10.0}, "below the cost of 1 candidate"),
        ((5, 40), {"budget": float("nan")}, "give a positive amount"),
        ((5, 40), {"folds": 1}, "`folds` is 1"),
    ],
)
def test_what_cannot_be_tuned_says_why(
    shape: tuple[int, int], changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        tuned(world(*shape, 1.0, 0), **changes)


def test_two_prompts_or_two_steps_are_enough_to_answer() -> None:
    assert not tuned(world(2, 30, 1.0, 0)).prunes
    rng = np.random.default_rng(0)
    short = ScoreTensors.single(rng.normal(size=(6, 30, 2)))
    assert tune(short, FLUX, TuneConfig(budget=100)).best_of_n == 4


def test_the_smallest_budget_is_answered() -> None:
    found = tuned(world(10, 30, 0.5, 0), budget=ONE + 1)
    assert found.best_of_n == 1


def test_the_grid_holds_valid_schedules_only() -> None:
    for steps in (2, 3, 5, 20, 50):
        grid = Grid(steps)
        coarse = list(grid.coarse())
        assert coarse and len(set(coarse)) == len(coarse)
        around = {
            found for start in coarse[:: len(coarse) // 9 + 1] for found in grid.neighbours(start)
        }
        for schedule in (*coarse, *around):
            places = [point.step_index for point in schedule]
            assert places == sorted(set(places)) and places[0] >= 0 and places[-1] < steps - 1
            assert {point.keep for point in schedule} <= set(KEEP)
