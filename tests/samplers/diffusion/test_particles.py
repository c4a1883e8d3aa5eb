"""Particle weights by hand, resampling by counting, and a chain whose tilted answer is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers.diffusion.particles import ParticleWeights, Potential
from samplers.drawing import (
    draw_one,
    effective_size,
    in_place,
    multinomial,
    probabilities,
    systematic,
)

POTENTIALS: tuple[Potential, ...] = ("max", "sum", "diff")
log_weights = st.lists(st.floats(-30, 30), min_size=1, max_size=12).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weighed(potential: Potential, *rounds: Sequence[float]) -> list[float]:
    """Log weights at strength 2 after these rewards, never resampled."""
    weights = ParticleWeights(len(rounds[0]), potential, 2.0)
    for rewards in rounds:
        weights.update(rewards)
    return weights.log_weights.tolist()


# Rewards (1, -1), then (0, 2), times 2; accumulated over both rounds.
BY_HAND: dict[Potential, tuple[list[float], list[float]]] = {
    "max": ([2.0, -2.0], [2.0 + 2.0, -2.0 + 4.0]),
    "sum": ([2.0, -2.0], [2.0 + 2.0, -2.0 + 2.0]),
    "diff": ([2.0, -2.0], [2.0 - 2.0, -2.0 + 6.0]),
}


@pytest.mark.parametrize("potential", POTENTIALS)
def test_weights_by_hand_accumulate_until_resampled(potential: Potential) -> None:
    first, second = BY_HAND[potential]
    assert weighed(potential, [1.0, -1.0]) == first
    assert weighed(potential, [1.0, -1.0], [0.0, 2.0]) == second


@pytest.mark.parametrize(
    ("potential", "expected"),
    # Both descend from the reward 3; then came 0 and 4.
    [("max", [2 * 3.0, 2 * 4.0]), ("sum", [2 * 3.0, 2 * 7.0]), ("diff", [2 * -3.0, 2 * 1.0])],
)
def test_copies_inherit_the_past_of_their_parent_but_not_its_weight(
    potential: Potential, expected: list[float]
) -> None:
    weights = ParticleWeights(2, potential, 2.0)
    weights.update([3.0, -1.0])
    weights.resample([0, 0])
    assert weights.log_weights.tolist() == [0.0, 0.0]
    weights.update([0.0, 4.0])
    assert weights.log_weights.tolist() == expected
    # What is left to 2 * 5: the first potential, 2 * 3, belongs to the path of both.
    weights.resample([0, 1])
    weights.update([5.0, 5.0], is_final=True)
    assert weights.log_weights.tolist() == [10 - 6 - log_g for log_g in expected]


@given(
    st.sampled_from(POTENTIALS),
    st.lists(st.lists(st.floats(-25, 25), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_along_a_path_the_potentials_sum_to_the_strength_times_the_final_reward(
    potential: Potential, rounds: list[list[float]]
) -> None:
    weights = ParticleWeights(3, potential, 10.0)
    for rewards in rounds[:-1]:
        weights.update(rewards)
    weights.update(rounds[-1], is_final=True)
    assert weights.log_weights.tolist() == pytest.approx([10 * r for r in rounds[-1]], abs=1e-9)


@pytest.mark.parametrize("potential", POTENTIALS)
def test_rewards_of_pickscore_neither_overflow_nor_lose_their_differences(
    potential: Potential,
) -> None:
    weights = ParticleWeights(4, potential, 10.0)
    for _ in range(3):
        weights.update([22.0, 22.1, 21.9, 22.0])
    shares = probabilities(weights.log_weights)
    assert torch.isfinite(shares).all() and shares.sum() == pytest.approx(1)
    rounds = 1 if potential == "diff" else 3 if potential == "max" else 6
    assert float(shares[1] / shares[0]) == pytest.approx(math.exp(rounds * 10 * 0.1))


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_without_a_finite_reward_a_particle_has_no_weight_until_it_is_replaced(
    potential: Potential, bad: float
) -> None:
    weights = ParticleWeights(3, potential, 0.0)
    weights.update([1.0, bad, 2.0])
    assert weights.log_weights.tolist() == [0.0, -math.inf, 0.0]
    assert weights.must_resample(0.0)
    parents = in_place(systematic(weights.log_weights, generator()))
    assert 1 not in parents
    weights.resample(parents)
    weights.update([1.0, 1.0, 1.0])
    assert weights.log_weights.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 49, 100])
def test_equal_weights_are_never_resampled(size: int) -> None:
    weights = ParticleWeights(size, "max", 10.0)
    weights.update([0.3] * size)
    assert effective_size(weights.log_weights) == pytest.approx(size)
    assert not weights.must_resample(1.0)


def test_resampling_starts_below_the_threshold() -> None:
    weights = ParticleWeights(4, "diff", 1.0)
    weights.update([math.log(3), 0.0, 0.0, 0.0])
    # Shares 1/2 and three times 1/6: 1 / (1/4 + 3/36) = 3
    assert effective_size(weights.log_weights) == pytest.approx(3.0)
    assert not weights.must_resample(0.74)
    assert weights.must_resample(0.76)
    # The weights accumulate: 9 to 1 leaves 144 / 84 effective particles.
    weights.update([2 * math.log(3), 0.0, 0.0, 0.0])
    assert effective_size(weights.log_weights) == pytest.approx(144 / 84)
    assert weights.must_resample(0.5)


@given(log_weights, st.integers(0, 2**32))
def test_systematic_counts_are_the_exact_ones_rounded_down_or_up(
    values: torch.Tensor, seed: int
) -> None:
    drawn = systematic(values, generator(seed))
    exact = (len(values) * probabilities(values)).tolist()
    counts = Counter(drawn)
    assert drawn == sorted(drawn) and len(drawn) == len(values)
    for index, share in enumerate(exact):
        assert math.floor(share - 1e-9) <= counts[index] <= math.ceil(share + 1e-9)


@pytest.mark.parametrize("draw", [systematic, multinomial])
def test_draws_are_right_on_average(
    draw: Callable[[torch.Tensor, torch.Generator], list[int]],
) -> None:
    values = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    stream, counts, rounds = generator(), Counter[int](), 4000
    for _ in range(rounds):
        counts.update(draw(values, stream))
    found = [counts[index] / (4 * rounds) for index in range(4)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.012)


def test_one_draw_is_right_on_average() -> None:
    values = torch.tensor([0.1, 0.9], dtype=torch.float64).log()
    stream = generator()
    ones = sum(draw_one(values, stream) for _ in range(4000))
    assert ones / 4000 == pytest.approx(0.9, abs=0.015)


@given(st.lists(st.integers(0, 7), min_size=8, max_size=8))
def test_whoever_is_drawn_keeps_its_place(drawn: list[int]) -> None:
    parents = in_place(drawn)
    assert sorted(parents) == sorted(drawn)
    assert all(parents[index] == index for index in drawn)


TRANSITION = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4]], dtype=torch.float64)
START = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
FINAL_REWARD = torch.tensor([0.0, 0.5, 1.2], dtype=torch.float64)
EARLY_REWARD = torch.tensor([0.3, -0.4, 0.6], dtype=torch.float64)  # misleading on purpose


@pytest.mark.parametrize("ess_threshold", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("potential", POTENTIALS)
def test_particles_follow_the_tilted_distribution_of_a_chain(
    potential: Potential, ess_threshold: float
) -> None:
    size, strength, stream = 100_000, 0.8, generator(1)
    weights = ParticleWeights(size, potential, strength)
    states = torch.multinomial(START, size, replacement=True, generator=stream)
    marginal = START
    for step in range(4):
        states = torch.multinomial(TRANSITION[states], 1, generator=stream)[:, 0]
        marginal = marginal @ TRANSITION
        is_final = step == 3
        weights.update((FINAL_REWARD if is_final else EARLY_REWARD)[states], is_final=is_final)
        if not is_final and weights.must_resample(ess_threshold):
            parents = systematic(weights.log_weights, stream)
            states = states[parents]
            weights.resample(parents)
    shares = probabilities(weights.log_weights)
    found = [float(shares[states == state].sum()) for state in range(3)]
    tilted = marginal * (strength * FINAL_REWARD).exp()
    assert found == pytest.approx((tilted / tilted.sum()).tolist(), abs=0.01)
