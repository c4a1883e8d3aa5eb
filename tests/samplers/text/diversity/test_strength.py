"""How far rows are moved."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.diversity import REPELLING, diversified, make
from torch import Tensor


def largest_move(**options: object) -> Tensor:
    given = make()
    return (diversified(given, **options).logits - given.logits).norm(dim=-1).amax(-1)


@pytest.mark.parametrize("strategy", REPELLING)
def test_the_largest_move_of_a_row_is_its_strength(strategy: str) -> None:
    strength = torch.tensor([0.5, 1.0, 3.0, 0.0])
    given = dataclasses.replace(make(), strength=strength)
    largest = (diversified(given, strategy=strategy).logits - given.logits).norm(dim=-1).amax(-1)
    expected = [0.5 if strategy == "dpp" else 0.0, 1.0, 3.0, 0.0]
    assert torch.allclose(largest, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("strategy", REPELLING)
def test_moves_are_along_one_gradient_whatever_the_strength(strategy: str) -> None:
    given = make()
    # Only the last row: others before it would be remembered from where they were moved to.
    weak = torch.tensor([0.0, 0.0, 0.0, 1.0])
    once, twice = (
        diversified(dataclasses.replace(given, strength=factor * weak), strategy=strategy).logits
        for factor in (1, 2)
    )
    assert torch.allclose(twice - given.logits, 2 * (once - given.logits), atol=1e-5)


def test_quality_is_the_mean_top_probability_of_open_positions() -> None:
    given = make()
    top = given.logits.softmax(-1).amax(-1)
    expected = torch.stack(
        [top[row][given.is_open[row]].mean() for row in range(len(given.logits))]
    )
    assert torch.allclose(diversified(given).quality, expected)
    assert torch.equal(diversified(given, quality=False).quality, torch.ones(len(given.logits)))


@pytest.mark.parametrize("strategy", REPELLING)
def test_confidence_scales_the_move(strategy: str) -> None:
    quality = diversified(make()).quality
    full = largest_move(strategy=strategy)
    assert torch.allclose(
        largest_move(strategy=strategy, gate="confidence"), full * quality, atol=1e-5
    )


@pytest.mark.parametrize("strategy", REPELLING)
def test_the_threshold_lets_the_confident_move(strategy: str) -> None:
    given = make()
    quality = diversified(given).quality
    threshold = float(quality[1:].median())
    found = diversified(given, strategy=strategy, gate="threshold", gate_threshold=threshold).logits
    is_still = [torch.equal(found[row], given.logits[row]) for row in range(len(found))]
    expected = [float(q) < threshold for q in quality]
    if strategy != "dpp":
        expected[0] = True
    assert is_still == expected
    assert {True, False} <= set(is_still[1:])
