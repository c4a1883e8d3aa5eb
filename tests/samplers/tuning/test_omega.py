"""Omega on curves whose areas are known by hand."""

import pytest

from gensift.errors import ConfigError
from samplers.tuning.omega import Omega


def test_omega_of_areas_by_hand() -> None:
    # Best-of-N rises by 1 per unit: area 2 above its first point. One more everywhere: area 4.
    found = Omega.of((10, 11, 12), (6, 7, 8), (5, 6, 7))
    assert found.percent == pytest.approx(100)
    # Simpson's rule of 0, 1, 4: (0 + 4 + 4) / 3 = 8/3, a third more than 2.
    assert Omega.of((0, 1, 2), (0, 1, 4), (0, 1, 2)).percent == pytest.approx(100 / 3)
    assert Omega.of((0, 1, 2), (0, 1, 2), (0, 1, 2)).percent == pytest.approx(0)


def test_omega_never_goes_without_its_grid() -> None:
    found = Omega.of((400, 600, 800), (1, 3, 5), (1, 2, 3))
    assert found.budgets == (400, 600, 800)
    assert str(found) == "+100.0 % over budgets 400 to 800 in steps of 200"


@pytest.mark.parametrize(
    ("budgets", "plain", "problem"),
    [
        ((1, 2), (1, 2), "at least three"),
        ((1, 2, 4), (1, 2, 3), "evenly spaced"),
        ((3, 2, 1), (1, 2, 3), "ascending"),
        ((1, 2, 3), (1, 1, 1), "does not rise"),
        ((1, 2, 3), (1, 2), "as many of each"),
    ],
)
def test_grids_that_have_no_area_are_refused(
    budgets: tuple[float, ...], plain: tuple[float, ...], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Omega.of(budgets, plain, plain)
