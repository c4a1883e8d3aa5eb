"""What a calibrated BAC is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from caches.fingerprint import Fingerprint
from caches.other_steps import OtherSteps, nearest_steps
from caches.profile import read_config
from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class UnitSchedule:
    """When one sub-block is computed.

    Attributes:
        unit: its stable name, such as "transformer_blocks.0.attn".
        updates: steps at which it is computed, rising from 0.
    """

    unit: str
    updates: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BACConfig:
    """Schedules of sub-blocks to reuse, as `gensift calibrate` finds them.

    Source: BAC (arXiv 2506.13456).

    Attributes:
        fingerprint: what it was calibrated on; None where it was written by hand.
    """

    num_steps: int = option(minimum=1, help="denoiser evaluations per context of the loop")
    schedules: tuple[UnitSchedule, ...] = option(help="when each sub-block is computed")
    other_steps: OtherSteps = option(
        "warn",
        choices=("warn", "refuse"),
        help="with another number of steps: interpolate with a warning, or refuse",
    )
    fingerprint: Fingerprint | None = field(default=None, metadata={"help": ""})

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        names = [item.unit for item in self.schedules]
        if len(set(names)) < len(names):
            yield "`schedules` names a sub-block twice"
        if not names:
            yield "`schedules` is empty; name at least one sub-block"
        for item in self.schedules:
            steps = list(item.updates)
            rises = steps == sorted(set(steps)) and steps[:1] == [0]
            if not rises or steps[-1] >= self.num_steps:
                yield f"{item.unit} is updated at {steps}; give rising steps from 0 below the end"

    @classmethod
    def from_file(cls, path: str | Path) -> BACConfig:
        """Read a profile that `gensift calibrate` wrote.

        Raises:
            ConfigError: no such file, of another kind, or damaged.
        """
        return read_config(path, "bac", cls)

    @property
    def schedule(self) -> dict[str, tuple[int, ...]]:
        """Steps at which each part is computed, in order of the schedules."""
        return {item.unit: item.updates for item in self.schedules}

    def with_steps(self, num_steps: int) -> BACConfig:
        """The same schedules for another number of steps, each from the nearest in the loop.

        Raises:
            ConfigError: `other_steps` says to refuse.
        """
        if num_steps == self.num_steps:
            return self
        nearest = nearest_steps("bac", self.num_steps, num_steps, self.other_steps)
        schedules = tuple(
            UnitSchedule(
                unit=item.unit,
                updates=tuple(
                    s for s in range(num_steps) if s == 0 or nearest[s] in set(item.updates)
                ),
            )
            for item in self.schedules
        )
        return replace(self, num_steps=num_steps, schedules=schedules)

    @cached_property
    def updates_of(self) -> dict[str, frozenset[int]]:
        """Steps at which each sub-block is computed, by its name."""
        return {item.unit: frozenset(item.updates) for item in self.schedules}
