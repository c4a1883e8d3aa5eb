"""The fewest computed steps that keep an error."""

from __future__ import annotations

from collections.abc import Callable

from gensift.errors import ConfigError


def fewest_updates(num_steps: int, error: Callable[[int], float], limit: float) -> int:
    """The fewest updates whose error keeps the limit, by bisection; errors fall with updates.

    Args:
        num_steps: steps of the loop, as many updates as there can be.
        error: of a schedule with so many updates. A ConfigError says that so few cannot be.
        limit: most that the error may be.
    """
    low, high = 1, num_steps
    while low < high:
        middle = (low + high) // 2
        try:
            is_enough = error(middle) <= limit
        except ConfigError:
            is_enough = False
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return high
