"""The simulation against a slow second one, which walks through each search on its own."""

import math

import numpy as np
import pytest
import torch

from gensift.errors import ConfigError
from rewards.combine import rank_sum
from samplers.diffusion.schedule import Checkpoint, goes_on
from samplers.tuning.pool import best_of_n_curve
from samplers.tuning.recordings import RewardScores, ScoreTensors
from samplers.tuning.simulation import Draws, simulate

SCHEDULE = (Checkpoint(1, 0.5), Checkpoint(2, 0.65), Checkpoint(4, 0.4))


def scores(num_rewards: int, *, broken: float = 0.0, levels: int = 6) -> ScoreTensors:
    """Whole-numbered scores, so that there are many ties; some broken."""
    rng = np.random.default_rng(num_rewards)
    parts = {}
    for name in "abc"[:num_rewards]:
        early = rng.integers(0, levels, size=(4, 15, 6)).astype(float)
        final = rng.integers(0, levels, size=(4, 15)).astype(float)
        early[rng.random(early.shape) < broken] = np.nan
        final[rng.random(final.shape) < broken] = -np.inf
        parts[name] = RewardScores.of(early, final)
    return ScoreTensors(parts)


def winner(
    tensors: ScoreTensors, prompt: int, images: list[int], schedule: tuple[Checkpoint, ...]
) -> int | None:
    """One search as the method describes it; None when nobody survives."""

    def order(column: dict[str, list[float]], alive: list[int]) -> list[int]:
        combined = rank_sum({name: torch.tensor(v) for name, v in column.items()}).tolist()
        if len(column) == 1:
            (combined,) = column.values()
        finite = [p for p in range(len(alive)) if math.isfinite(combined[p])]
        return [alive[p] for p in sorted(finite, key=lambda p: (-combined[p], p))]

    alive = images
    for point in schedule:
        column = {
            n: [s.early[prompt, i, point.step_index] for i in alive]
            for n, s in tensors.rewards.items()
        }
        kept = order(column, alive)[: goes_on(len(alive), point.keep, 1)] if alive else []
        alive = [image for image in images if image in kept]
    column = {n: [s.final[prompt, i] for i in alive] for n, s in tensors.rewards.items()}
    return next(iter(order(column, alive)), None) if alive else None


@pytest.mark.parametrize("num_rewards", [1, 2, 3])
@pytest.mark.parametrize("broken", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("count", [1, 7, 15])
@pytest.mark.parametrize("schedule", [(), SCHEDULE[1:2], SCHEDULE])
def test_winners_are_those_of_a_slow_simulation(
    num_rewards: int, broken: float, count: int, schedule: tuple[Checkpoint, ...]
) -> None:
    tensors = scores(num_rewards, broken=broken)
    draws = Draws(tensors, 20, seed=3)
    found = draws.winners(schedule, count)
    compared = 0
    for prompt, draw in np.ndindex(found.shape):
        images = draws.candidates[prompt, draw, :count].tolist()
        expected = winner(tensors, prompt, images, schedule)
        assert found[prompt, draw] in images
        if expected is not None:
            compared += 1
            assert found[prompt, draw] == expected
    assert compared == found.size or broken


def test_without_checkpoints_it_is_best_of_n() -> None:
    tensors = scores(1, levels=1000)
    exact = best_of_n_curve(tensors.values())[:, 4]
    found = simulate(tensors, (), 5, num_draws=20_000)
    np.testing.assert_allclose(found, exact, atol=10)
    np.testing.assert_allclose(found.mean(), exact.mean(), atol=4)


def test_keeping_all_is_best_of_n_draw_by_draw() -> None:
    draws = Draws(scores(1), 10, seed=0)
    keep_all = tuple(Checkpoint(point.step_index, 1.0) for point in SCHEDULE)
    np.testing.assert_array_equal(draws.winners(keep_all, 9), draws.winners((), 9))


def test_prompts_draw_independently_and_without_replacement() -> None:
    candidates = Draws(scores(1), 30, seed=0).candidates
    assert all(len(set(row)) == 15 for row in candidates.reshape(-1, 15).tolist())
    assert not (candidates[0] == candidates[1]).all(axis=-1).any()


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second, other = (simulate(scores(1), SCHEDULE, 9, seed=s) for s in (1, 1, 2))
    assert (first == second).all() and (first != other).any()


def test_more_candidates_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="16 candidates were asked for, but 15 images"):
        simulate(scores(1), SCHEDULE, 16)
