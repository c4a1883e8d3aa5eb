"""The distance on Gaussians whose answer is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from apps.training.evaluation.classes import ClassScorer, rendered
from apps.training.evaluation.frechet import frechet_distance
from apps.training.zoo.shapes_classes import CLASSES


def sample(deviations: list[float], shift: float = 0.0, count: int = 500) -> torch.Tensor:
    """Rows whose mean is `shift` and whose covariance is exactly diagonal."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, len(deviations), generator=generator, dtype=torch.float64)
    rows = rows - rows.mean(0)
    factor = torch.linalg.cholesky(rows.T.cov())
    white = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    return white * torch.tensor(deviations) + shift


def test_equal_sets_are_at_distance_zero() -> None:
    rows = sample([1.0, 2.0, 0.5])
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_squared() -> None:
    assert frechet_distance(sample([1.0, 2.0]), sample([1.0, 2.0], 3.0)) == pytest.approx(18)


def test_commuting_covariances() -> None:
    """Diagonal ones: the sum of squared differences of the deviations."""
    found = frechet_distance(sample([1.0, 2.0, 3.0]), sample([2.0, 2.0, 0.5]))
    assert found == pytest.approx(1 + 0 + 6.25)


def test_covariances_that_do_not_commute() -> None:
    """Against the general form, with the square root of a product that is not symmetric."""
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    first, second = sample([1.0, 3.0]), sample([2.0, 0.5]) @ turn.double().T
    one, other = (rows.T.cov() for rows in (first, second))
    values, vectors = torch.linalg.eig(one @ other)
    root = (vectors @ torch.diag(values.sqrt()) @ torch.linalg.inv(vectors)).real
    wanted = float((one + other - 2 * root).trace())
    assert frechet_distance(first, second) == pytest.approx(wanted)
    assert frechet_distance(second, first) == pytest.approx(wanted)


def test_more_channels_than_pictures_give_a_number() -> None:
    rows = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(rows, rows + 1) == pytest.approx(20, rel=1e-4)


def test_the_judge_prefers_what_was_rendered() -> None:
    scorer = ClassScorer(reference_per_class=20)
    fresh = rendered(10, seed=5)
    assert len(fresh) == 10 * len(CLASSES)
    good = scorer.score(fresh)
    noise = np.random.default_rng(0).integers(-90, 90, fresh.shape)
    noisy = scorer.score((fresh.astype(int) + noise).clip(0, 255).astype(np.uint8))
    assert good.verified == 1.0
    assert noisy.frechet > 3 * good.frechet
    # Pictures of the wrong classes look right as a set and are not.
    shuffled = scorer.score(np.roll(fresh, 1, axis=0))
    assert shuffled.frechet == pytest.approx(good.frechet, rel=1e-3) and shuffled.verified == 0
