"""Timing alternatives side by side: repeated and interleaved, with peaks of memory, to limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.results import interval
from caches.evaluation import now
from gensift.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One run.

    Attributes:
        seconds: wall time, with all work on a GPU done.
        peak_memory_mib: most memory allocated on the GPU during the run; None on a CPU.
        result: what the run returned.
    """

    seconds: float
    peak_memory_mib: float | None
    result: Any


def timed(run: Callable[[], Any], device: str) -> Timing:
    """Run once."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = now()
    result = run()
    seconds = now() - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    return Timing(seconds=seconds, peak_memory_mib=peak, result=result)


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, device: str, *, warm_ups: int = 0
) -> dict[str, list[Timing]]:
    """Run every alternative once per round; entry `i` of each is of the same round.

    Rounds of `warm_ups` come first and do not count: first calls allocate and choose kernels.
    """
    if warm_ups:
        interleaved(runs, warm_ups, device)
    found: dict[str, list[Timing]] = {name: [] for name in runs}
    for index in range(rounds):
        # Every other round runs backwards, so that a drift of the clock rate hits all alike.
        names = list(runs) if index % 2 == 0 else list(runs)[::-1]
        for name in names:
            found[name].append(timed(runs[name], device))
    return found


def summary(timings: list[Timing]) -> dict[str, Any]:
    """Median wall time, its spread, and the highest peak."""
    seconds = [timing.seconds for timing in timings]
    peaks = [t.peak_memory_mib for t in timings if t.peak_memory_mib is not None]
    return {
        "seconds": float(np.median(seconds)),
        "seconds_range": (min(seconds), max(seconds)),
        "peak_memory_mib": max(peaks, default=None),
    }


def seconds_by_part(timings: list[Timing]) -> dict[str, float]:
    """Median seconds of each part, of runs that returned a `Cost`."""
    parts = timings[0].result.seconds
    return {part: float(np.median([t.result.seconds[part] for t in timings])) for part in parts}


def ratio(numerators: list[float], denominators: list[float]) -> dict[str, Any]:
    """Median of the ratios, round by round, with the interval of their mean."""
    ratios = np.array(numerators) / np.array(denominators)
    return {
        "ratio": float(np.median(ratios)),
        "mean_interval_95": interval(ratios),
        "pairs": len(ratios),
    }


class Deadline:
    """A limit of time that measurements are cut to."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.perf_counter() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self._end - time.perf_counter()

    def affordable(self, rounds: int, seconds_per_round: float) -> int:
        """At most `rounds`, within half of what is left; one may take all of it, none more."""
        if seconds_per_round > self.left_s:
            return 0
        return max(1, min(rounds, int(self.left_s / 2 / max(seconds_per_round, 1e-9))))


def within_limits(run: Callable[[], dict[str, Any]], deadline: Deadline) -> dict[str, Any]:
    """What `run` returns, or why there is none: no time was left, or memory ran out."""
    if deadline.left_s <= 0:
        return {"skipped": "beyond the time limit"}
    return or_out_of_memory(run)


def or_out_of_memory(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` returns, or the message of the error where memory ran out."""
    try:
        return run()
    except (torch.OutOfMemoryError, DeviceError) as error:
        reason = " ".join(str(error).split())[:300]
    torch.cuda.empty_cache()
    return {"out_of_memory": reason}
