"""The greedy policy on matrices whose schedule is known."""

import numpy as np
import pytest

from caches.planning.threshold import reuse_below
from gensift.errors import ConfigError

# |a - t|: the error is the age of what is reused.
AGE = np.abs(np.subtract.outer(np.arange(10.0), np.arange(10.0)))


def test_errors_are_not_accumulated() -> None:
    # Added up, ages 1 + 2 would already exceed 2.5.
    assert reuse_below(AGE, 2.5) == (0, 3, 6, 9)


def test_a_reuse_costs_strictly_less_than_the_threshold() -> None:
    assert reuse_below(AGE, 1.0) == tuple(range(10))
    assert reuse_below(AGE, 0.0) == tuple(range(10))
    assert reuse_below(AGE, np.inf) == (0,)


def test_limits_hold_at_any_threshold() -> None:
    assert reuse_below(AGE, np.inf, max_reuse=3) == (0, 4, 8)
    assert reuse_below(AGE, np.inf, max_reuse=0) == tuple(range(10))
    assert reuse_below(AGE, np.inf, must_update=(1, 9)) == (0, 1, 9)
    # The age starts anew at a step that has to be computed.
    assert reuse_below(AGE, 2.5, must_update=(1,)) == (0, 1, 4, 7)
    cost = AGE.copy()
    cost[0, 2] = np.nan
    cost[2, 5] = np.inf
    assert reuse_below(cost, np.inf) == (0, 2, 5)


def test_each_reused_step_is_below_and_each_update_is_not() -> None:
    for seed in range(50):
        cost = np.random.default_rng(seed).random((20, 20))
        updates = reuse_below(cost, 0.4)
        for step in range(1, 20):
            last = max(update for update in updates if update < step)
            assert (cost[last, step] < 0.4) == (step not in updates)


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the threshold is NaN; give a number"):
        reuse_below(AGE, np.nan)
    with pytest.raises(ConfigError, match="`max_reuse` is -1"):
        reuse_below(AGE, 0.1, max_reuse=-1)
