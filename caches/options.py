"""Options of calibration; imports nothing heavy, as the command line reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """What a cache is calibrated for, and how."""

    cache: Literal["ertacache", "bac"] = option(
        "ertacache",
        choices=("ertacache", "bac"),
        help="ertacache reuses whole denoiser evaluations, bac single sub-blocks",
    )
    target_speedup: float | None = option(
        None, minimum=1, help="how many times faster the denoiser shall be; 2 unless told otherwise"
    )
    max_error: float | None = option(
        None,
        minimum=0,
        help="instead: most that the last latents may differ, relative to their size",
    )
    threshold: float | None = option(
        None,
        minimum=0,
        help="instead, of ertacache: reuse while the relative error stays below this, as published",
    )
    closed_loop: bool = option(
        False, help="with threshold: decide where earlier reuse has led, not on uncached runs"
    )
    residual: Literal["auto", "increment", "output", "body"] = option(
        "auto",
        choices=("auto", "increment", "output", "body"),
        help="of ertacache: what is kept; auto takes what errs least",
    )
    mend: bool = option(
        True, help="of ertacache: also move steps and take off linear errors where that helps"
    )
    max_reuse: int = option(6, minimum=1, help="of ertacache: most steps in a row that are reused")
    num_bubbling: int = option(
        5, minimum=0, help="of bac: sub-blocks computed whenever a feed-forward behind them is"
    )
    always_last: bool = option(False, help="of ertacache: always compute the last step")
    batch_prompts: int = option(4, minimum=1, help="prompts denoised together")
    seed: int = option(0, minimum=0, help="number that all noise derives from")

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        aims = ("target_speedup", "max_error", "threshold")
        given = [name for name in aims if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"{' and '.join(f'`{name}`' for name in given)} are given; give one of them"
        if self.threshold is not None and self.cache != "ertacache":
            yield "`threshold` is a rule of ertacache; give target_speedup or max_error for bac"
        if self.closed_loop and (self.threshold is None or self.residual == "body"):
            yield "`closed_loop` needs a `threshold`, and the residual increment or output"

    @property
    def speedup(self) -> float:
        """The speed-up aimed at, where that is the aim."""
        return 2.0 if self.target_speedup is None else self.target_speedup
