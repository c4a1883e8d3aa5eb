"""What a calibrated ERTACache is made of."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from caches.fingerprint import Fingerprint
from caches.other_steps import OtherSteps, nearest_steps
from caches.profile import read_config
from gensift.config import check, option

ResidualMode = Literal["increment", "output", "body"]


@dataclass(frozen=True, kw_only=True)
class StepRectification:
    """The linear part of the reuse error at one step: error = slope * reused + offset.

    Attributes:
        branch: which call of a step, and which guidance group in it.
        step: of the schedule.
        slope: per latent channel, or one number for all.
        offset: the same.
    """

    branch: str
    step: int
    slope: tuple[float, ...]
    offset: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ERTACacheConfig:
    """A schedule of whole denoiser evaluations to reuse, as `gensift calibrate` finds it.

    Source: ERTACache (arXiv 2508.21091).

    Attributes:
        fingerprint: what it was calibrated on; None where it was written by hand.
    """

    num_steps: int = option(minimum=1, help="denoiser evaluations per context of the loop")
    updates: tuple[int, ...] = option(help="steps that are computed, the first among them")
    residual: ResidualMode = option(
        "increment",
        choices=("increment", "output", "body"),
        help="what is kept: output minus input, the output, or what the blocks add",
    )
    step_shares: tuple[float, ...] = option(
        (), minimum=0, maximum=1, help="per step, its share of the step as scheduled; none: all 1"
    )
    rectification: tuple[StepRectification, ...] = option((), help="linear errors to be taken off")
    groups: int = option(1, minimum=1, help="guidance groups per denoiser call")
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
        if not self.updates or self.updates[0] != 0:
            yield f"`updates` is {list(self.updates)}; its first step must be 0"
        elif list(self.updates) != sorted(set(self.updates)) or self.updates[-1] >= self.num_steps:
            yield f"`updates` is {list(self.updates)}; give rising steps below {self.num_steps}"
        if self.step_shares and len(self.step_shares) != self.num_steps:
            yield f"`step_shares` has {len(self.step_shares)} entries for {self.num_steps} steps"
        for item in self.rectification:
            if len(item.slope) != len(item.offset) or not 0 <= item.step < self.num_steps:
                yield f"`rectification` of step {item.step} does not fit"

    @classmethod
    def from_file(cls, path: str | Path) -> ERTACacheConfig:
        """Read a profile that `gensift calibrate` wrote.

        Raises:
            ConfigError: no such file, of another kind, or damaged.
        """
        return read_config(path, "ertacache", cls)

    @property
    def schedule(self) -> dict[str, tuple[int, ...]]:
        """Steps at which each part is computed: the whole denoiser is the only part."""
        return {"denoiser": self.updates}

    def with_steps(self, num_steps: int) -> ERTACacheConfig:
        """The same schedule for another number of steps, each taken from the nearest in the loop.

        Raises:
            ConfigError: `other_steps` says to refuse.
        """
        if num_steps == self.num_steps:
            return self
        nearest = nearest_steps("ertacache", self.num_steps, num_steps, self.other_steps)
        computed = set(self.updates)
        return replace(
            self,
            num_steps=num_steps,
            updates=tuple(s for s in range(num_steps) if s == 0 or nearest[s] in computed),
            step_shares=tuple(self.step_shares[s] for s in nearest) if self.step_shares else (),
            rectification=tuple(
                replace(item, step=step)
                for step in range(num_steps)
                for item in self.rectification
                if item.step == nearest[step]
            ),
        )

    def last_update(self, step: int) -> int:
        """The step whose evaluation is used at `step`."""
        return self.updates[bisect.bisect_right(self.updates, step) - 1]
