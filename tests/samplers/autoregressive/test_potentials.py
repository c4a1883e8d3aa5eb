"""Weights by hand."""

from __future__ import annotations

import math

import pytest
import torch

from samplers.autoregressive.config import Potential
from samplers.autoregressive.potentials import log_weights, standardized


def weights(potential: Potential, *history: list[float]) -> list[float]:
    table = [torch.tensor(rewards, dtype=torch.float64) for rewards in history]
    return torch.softmax(log_weights(potential, table), 0).tolist()


def test_value_at_strength_ten() -> None:
    assert weights("value", [0.0, 1.0]) == pytest.approx([0.2689, 0.7311], abs=5e-5)


@pytest.mark.parametrize(
    ("potential", "expected"),
    [
        ("value", [1.0, 2.0, 0.0]),
        ("max", [3.0, 2.0, 4.0]),
        ("sum", [4.0, 3.0, 4.0]),
        ("diff", [-2.0, 1.0, -4.0]),
    ],
)
def test_history(potential: Potential, expected: list[float]) -> None:
    table = [torch.tensor([3.0, 1.0, 4.0]), torch.tensor([1.0, 2.0, 0.0])]
    assert log_weights(potential, table).tolist() == expected


def test_the_difference_to_nothing_is_the_value() -> None:
    assert weights("diff", [0.0, 1.0]) == weights("value", [0.0, 1.0])


def test_no_reward_overflows() -> None:
    assert weights("value", [1e6, 1e6 + 1]) == pytest.approx(
        [1 / (1 + math.e), math.e / (1 + math.e)]
    )
    assert weights("sum", [1e300, 0.0], [1e300, 0.0]) == [1.0, 0.0]


@pytest.mark.parametrize("potential", ["value", "max", "sum", "diff"])
def test_a_broken_picture_has_no_heirs(potential: Potential) -> None:
    found = weights(potential, [5.0, 0.0, 0.0], [-math.inf, 0.0, 0.0])
    assert found == pytest.approx([0.0, 0.5, 0.5])


def test_all_broken_are_equal() -> None:
    assert weights("value", [-math.inf, math.nan]) == [0.5, 0.5]


def test_standard_units() -> None:
    assert standardized(torch.tensor([1.0, 3.0])).tolist() == [-1.0, 1.0]
    assert standardized(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]
    broken = standardized(torch.tensor([1.0, 3.0, -torch.inf])).tolist()
    assert broken == [-1.0, 1.0, -math.inf]
