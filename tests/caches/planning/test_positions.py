"""Index sets are sorted, made of different indices, and never wrap around."""

import pytest

from caches.planning.positions import checked_positions
from gensift.errors import ConfigError


def test_positions_come_sorted_and_once() -> None:
    assert checked_positions("updates", {4, 0, 2}, 5) == (0, 2, 4)
    assert checked_positions("updates", iter([2, 0, 2]), 5) == (0, 2)
    assert checked_positions("updates", (), 0) == ()


def test_positions_outside_are_named() -> None:
    with pytest.raises(ConfigError, match=r"`must_update` holds \[-1, 5\]; allowed are the 5 "):
        checked_positions("must_update", (-1, 0, 5), 5)
