"""Schedules in loops of another length than the one calibrated."""

from __future__ import annotations

import warnings
from typing import Literal

from gensift.errors import ConfigError

OtherSteps = Literal["warn", "refuse"]


def nearest_steps(cache: str, calibrated: int, num_steps: int, policy: OtherSteps) -> list[int]:
    """For each of `num_steps` steps the calibrated one at the nearest place in the loop.

    Warns that nobody has measured the error of a schedule that is stretched so.

    Raises:
        ConfigError: `policy` says to refuse.
    """
    told = f"This {cache} was calibrated for {calibrated} steps, the run has {num_steps}"
    if policy == "refuse":
        raise ConfigError(f"{told}; calibrate for that number, or run {calibrated}.")
    warnings.warn(
        f"{told}: its schedule is interpolated, at an error that nobody measured. Calibrate for "
        "that number to be sure.",
        stacklevel=3,
    )
    scale = (calibrated - 1) / max(1, num_steps - 1)
    return [round(step * scale) for step in range(num_steps)]
