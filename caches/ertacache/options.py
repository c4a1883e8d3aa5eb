"""Options of calibrating an ERTACache; imports nothing heavy, as the command line reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from caches.options import CalibrationOptions
from gensift.config import option


@dataclass(frozen=True, kw_only=True)
class ERTACacheOptions(CalibrationOptions):
    """What an ERTACache is calibrated for, and how."""

    aims: ClassVar[tuple[str, ...]] = (*CalibrationOptions.aims, "threshold")

    threshold: float | None = option(
        None,
        minimum=0,
        help="instead: reuse while the relative error stays below this, as published",
    )
    closed_loop: bool = option(
        False, help="with threshold: decide where earlier reuse has led, not on uncached runs"
    )
    residual: Literal["auto", "increment", "output", "body"] = option(
        "auto",
        choices=("auto", "increment", "output", "body"),
        help="what is kept; auto takes what errs least",
    )
    correct: bool = option(
        True,
        help="also move steps and take off linear errors where that helps",
        formerly="mend",
    )
    max_reuse: int = option(6, minimum=1, help="most steps in a row that are reused")
    always_last: bool = option(False, help="always compute the last step")

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.closed_loop and (self.threshold is None or self.residual == "body"):
            yield "`closed_loop` needs a `threshold`, and the residual increment or output"
