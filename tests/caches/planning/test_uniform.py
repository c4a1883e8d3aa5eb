"""Uniform updates are as even as can be, for every size."""

from itertools import pairwise

import pytest

from caches.planning.uniform import uniform_updates
from gensift.errors import ConfigError


def test_distances_differ_by_one_at_most_and_add_up() -> None:
    for steps in range(1, 41):
        for updates in range(1, steps + 1):
            found = uniform_updates(steps, updates)
            distances = [after - before for before, after in pairwise((*found, steps))]
            assert found[0] == 0 and len(found) == updates
            assert set(distances) <= {steps // updates, -(-steps // updates)}


def test_whole_ratios_are_multiples() -> None:
    assert uniform_updates(100, 10) == tuple(range(0, 100, 10))


@pytest.mark.parametrize("updates", [0, 6])
def test_other_counts_are_refused(updates: int) -> None:
    with pytest.raises(ConfigError, match=rf"{updates} updates of 5 steps .*; give 1 to 5\."):
        uniform_updates(5, updates)
