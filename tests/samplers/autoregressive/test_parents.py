"""Draws of fewer parents than candidates, counted."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
import torch

from samplers.autoregressive.config import Draw
from samplers.autoregressive.parents import draw_parents

RULES: tuple[Draw, ...] = get_args(Draw)
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_as_many_as_asked_for_in_order(rule: Draw, size: int) -> None:
    for seed in range(20):
        drawn = draw_parents(rule, WEIGHTS, size, generator(seed))
        assert len(drawn) == size
        assert drawn == sorted(drawn)
        assert set(drawn) <= set(range(4))


@pytest.mark.parametrize("rule", ["multinomial", "systematic"])
def test_draws_are_by_weight(rule: Draw) -> None:
    counts = Counter(
        parent for seed in range(3000) for parent in draw_parents(rule, WEIGHTS, 2, generator(seed))
    )
    shares = [counts[parent] / 6000 for parent in range(4)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)


def test_systematic_counts_are_rounded_exact_ones() -> None:
    for seed in range(50):
        counts = Counter(draw_parents("systematic", WEIGHTS, 3, generator(seed)))
        for parent, share in enumerate(WEIGHTS.exp().tolist()):
            assert abs(counts[parent] - 3 * share) < 1


def test_without_replacement_follows_the_urn() -> None:
    """First draw by weight, second by the weights that are left: summed over both orders."""
    chances = WEIGHTS.exp().tolist()
    expected = {
        (a, b): chances[a] * chances[b] * (1 / (1 - chances[a]) + 1 / (1 - chances[b]))
        for a in range(4)
        for b in range(a + 1, 4)
    }
    draws = 6000
    counts = Counter(
        tuple(draw_parents("without-replacement", WEIGHTS, 2, generator(seed)))
        for seed in range(draws)
    )
    for pair, chance in expected.items():
        assert counts[pair] / draws == pytest.approx(chance, abs=0.025)


def test_top_k_and_beam() -> None:
    scores = torch.tensor([3.0, 9.0, 7.0, 8.0, 1.0])
    assert draw_parents("top-k", scores, 3, generator(0)) == [1, 2, 3]
    assert draw_parents("beam", scores, 4, generator(0)) == [1, 1, 3, 3]
    assert draw_parents("beam", scores, 5, generator(0)) == [1, 1, 1, 3, 3]
    assert draw_parents("beam", scores, 1, generator(0)) == [1]


def test_top_k_breaks_ties_by_index() -> None:
    assert draw_parents("top-k", torch.zeros(4), 2, generator(0)) == [0, 1]


def test_adaptive_repeats_nobody_while_weights_are_even() -> None:
    even, nonuniform = torch.zeros(4), torch.tensor([0.0, 0.0, 20.0, 0.0])
    for seed in range(20):
        assert len(set(draw_parents("adaptive", even, 3, generator(seed)))) == 3
        assert draw_parents("adaptive", nonuniform, 3, generator(seed)) == [2, 2, 2]


@pytest.mark.parametrize("rule", RULES)
def test_the_broken_are_never_chosen_while_others_are_left(rule: Draw) -> None:
    broken = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf])
    for seed in range(30):
        assert set(draw_parents(rule, broken, 2, generator(seed))) <= {1, 2}
