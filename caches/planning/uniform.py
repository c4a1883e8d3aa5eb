"""Update steps at equal distances, the baseline that needs no calibration."""

from __future__ import annotations

from gensift.errors import ConfigError


def uniform_updates(steps: int, updates: int) -> tuple[int, ...]:
    """`updates` of `steps` steps, as evenly spaced as whole numbers allow, from step 0 on.

    The distances (the last one to the end of the run) differ by one at most; shorter ones come
    first.

    Raises:
        ConfigError: `updates` is not within 1 to `steps`.
    """
    if not 1 <= updates <= steps:
        raise ConfigError(f"{updates} updates of {steps} steps were asked for; give 1 to {steps}.")
    return tuple(index * steps // updates for index in range(updates))
