"""The exact best-of-n against enumeration, closed forms and hand-made curves."""

from itertools import combinations

import numpy as np
import pytest

from gensift.errors import ConfigError
from samplers.tuning.pool import best_of_n_curve, equivalent_count


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    pool = np.random.default_rng(0).normal(size=(3, 7))
    pool[1, 2] = pool[1, 5]
    expected = [
        [np.mean([max(c) for c in combinations(row, n)]) for n in range(1, 8)] for row in pool
    ]
    np.testing.assert_allclose(best_of_n_curve(pool), expected, rtol=1e-12)


def test_thousands_of_images_stay_exact() -> None:
    # Of the numbers 1 to N the best of n is (N + 1) n / (n + 1) on average.
    size = 4000
    n = np.arange(1, size + 1)
    curve = best_of_n_curve(np.arange(1.0, size + 1)[None])[0]
    np.testing.assert_allclose(curve, (size + 1) * n / (n + 1), rtol=1e-10)


def test_the_curve_can_stop_early_but_not_go_beyond_the_pool() -> None:
    pool = np.random.default_rng(0).normal(size=(2, 5))
    np.testing.assert_array_equal(best_of_n_curve(pool, 3), best_of_n_curve(pool)[:, :3])
    with pytest.raises(ConfigError, match="the pool has 5 images"):
        best_of_n_curve(pool, 6)
    with pytest.raises(ConfigError, match="finite"):
        best_of_n_curve(np.array([[1.0, np.nan]]))


def test_equivalent_counts_are_interpolated_and_say_when_the_pool_ends() -> None:
    curve = np.array([1.0, 2.0, 2.5])
    assert equivalent_count(curve, 2.25).count == 2.5
    assert equivalent_count(curve, 1.0).relation == "="
    assert str(equivalent_count(curve, 2.6)) == "more than 3, the size of the pool"
    assert str(equivalent_count(curve, 0.9)) == "less than 1"
