"""The area between two reward/budget curves, as the TTSnap authors' notebooks measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import simpson

from gensift.errors import ConfigError


@dataclass(frozen=True)
class Omega:
    """Extra area under the reward/budget curve relative to best-of-N's area.

    The figure depends strongly on where the grid begins, so it never goes without its grid.

    Attributes:
        percent: the area gained, in percent of best-of-N's area above its first point.
        budgets: the even grid, ascending, in the unit of the unit costs.
    """

    percent: float
    budgets: tuple[float, ...]

    @classmethod
    def of(
        cls, budgets: Sequence[float], method: Sequence[float], best_of_n: Sequence[float]
    ) -> Omega:
        """Measure `method` against `best_of_n`.

        Args:
            budgets: at least three, evenly spaced and ascending.
            method: mean final reward at each budget.
            best_of_n: that of best-of-N at the same budgets.

        Raises:
            ConfigError: the grid is not such, lengths differ, or best-of-N does not rise.

        Source: `omega`, "relative increase", in the published notebooks; Simpson's rule.
        """
        grid, tuned, plain = (np.asarray(v, np.float64) for v in (budgets, method, best_of_n))
        if not len(grid) == len(tuned) == len(plain):
            raise ConfigError(
                f"omega got {len(grid)} budgets, {len(tuned)} and {len(plain)} rewards; give as "
                "many of each."
            )
        gaps = np.diff(grid)
        if len(grid) < 3 or gaps.min() <= 0 or not np.allclose(gaps, gaps[0]):
            raise ConfigError(
                f"omega got the budgets {list(budgets)}; give at least three, evenly spaced and "
                "ascending."
            )
        area = float(simpson(plain - plain[0], x=grid))
        if area <= 0:
            raise ConfigError(
                "best-of-N does not rise over the budgets of omega, so there is no area to compare "
                "with; give scores that differ between images."
            )
        extra = float(simpson(tuned - plain[0], x=grid)) - area
        return cls(100 * extra / area, tuple(grid.tolist()))

    def __str__(self) -> str:
        first, last = self.budgets[0], self.budgets[-1]
        step = self.budgets[1] - first
        return f"{self.percent:+.1f} % over budgets {first:g} to {last:g} in steps of {step:g}"
