"""What every calibration is asked; imports nothing heavy, as the command line reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from gensift.config import check, option

Prompts: TypeAlias = Sequence[object]
"""What the first argument of a pipeline's call takes a list of: texts, observations of a policy."""


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What a cache is calibrated for, and how. Each method adds options of its own.

    Attributes:
        aims: names of the options of which one at most is given, as each says what to aim at.
    """

    aims: ClassVar[tuple[str, ...]] = ("target_speedup", "max_error")

    target_speedup: float | None = option(
        None, minimum=1, help="how many times faster the denoiser shall be; 2 unless told otherwise"
    )
    max_error: float | None = option(
        None,
        minimum=0,
        help="instead: most that the last latents may differ, relative to their size",
    )
    batch_prompts: int = option(4, minimum=1, help="prompts denoised together")
    seed: int = option(0, minimum=0, help="number that all noise derives from")

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        given = [name for name in self.aims if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"{' and '.join(f'`{name}`' for name in given)} are given; give one of them"

    @property
    def speedup(self) -> float:
        """The speed-up aimed at, where that is the aim."""
        return 2.0 if self.target_speedup is None else self.target_speedup
