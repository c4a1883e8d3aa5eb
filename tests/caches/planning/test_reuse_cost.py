"""Limits become infinite costs; nothing else changes."""

import numpy as np
import pytest

from caches.planning.reuse_cost import allowed_costs
from gensift.errors import ConfigError


def test_every_forbidden_reuse_and_only_those_cost_infinity() -> None:
    cost = np.random.default_rng(0).normal(size=(7, 7))
    cost[1, 2] = np.nan
    cost[5, 1] = -np.inf
    before = cost.copy()
    allowed = allowed_costs(cost, (4,), 2)
    for a in range(7):
        for t in range(7):
            is_allowed = 0 < t - a <= 2 and t != 4 and (a, t) != (1, 2)
            assert allowed[a, t] == (cost[a, t] if is_allowed else np.inf)
    np.testing.assert_array_equal(cost, before)


@pytest.mark.parametrize("shape", [(0, 0), (3,), (2, 3), (2, 2, 2)])
def test_costs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"costs of shape .*; give \(steps, steps\)\."):
        allowed_costs(np.zeros(shape), (), None)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`max_reuse` is -1; give 0 or more"):
        allowed_costs(np.zeros((3, 3)), (), -1)
    with pytest.raises(ConfigError, match=r"`must_update` holds \[3\]"):
        allowed_costs(np.zeros((3, 3)), (0, 3), None)
    with pytest.raises(ConfigError, match=r"costs minus infinity was given; .*; replace it"):
        allowed_costs(np.array([[0, -np.inf], [0, 0]]), (), None)
