"""Runs of a pipeline with a cache on it: seconds inside the denoiser, bytes held, peak memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.cache_contenders import FAILURES, CacheContender
from benchmarks.caches import DenoiserTimer
from benchmarks.gpu_subject import Subject
from benchmarks.timing import Timing, interleaved, ratio, summary
from caches.cache import CacheReport, cache_of
from gensift.randomness import candidate_seeds

Timings = Mapping[CacheContender, list[Timing]]
UNCACHED = CacheContender("uncached", "", lambda pipe: nullcontext())
TRIES = 5
"""Runs that may go into finding a threshold."""
CLOSE = math.log(1.1)
"""Logarithm of how near to twice the speed ends the search."""


@dataclass(frozen=True)
class CachedRun:
    """What was seen in one run.

    Attributes:
        seconds: inside the denoiser, hooks included.
        num_bytes: most memory that the cache held at the end of a step; 0 for those not ours.
        report: of the cache after the last step; None for those not ours.
    """

    seconds: float
    num_bytes: int = 0
    report: CacheReport | None = None


def run(
    subject: Subject, count: int, contender: CacheContender, steps: int | None = None
) -> CachedRun:
    """Draw `count` pictures or videos, up to their latents."""
    timer = DenoiserTimer()
    reports: list[CacheReport] = []

    def look(pipe: Any, index: int, timestep: Any, tensors: Any) -> dict[str, Any]:
        # At the end of the call a pipeline lets its caches forget.
        if (cache := cache_of(pipe)) is not None:
            reports.append(cache.report())
        return {}

    try:
        with contender.switch(subject.pipe), timer.around(subject.denoiser):
            subject.plain(
                candidate_seeds(0, 0, count),
                num_inference_steps=steps or subject.steps,
                callback_on_step_end=look,
            )
    finally:
        if torch.cuda.is_available():
            # What a cache kept must not count into the next run's peak of memory.
            gc.collect()
    held = max((report.num_bytes for report in reports), default=0)
    return CachedRun(timer.seconds, held, reports[-1] if reports else None)


def attempt(subject: Subject, count: int, contender: CacheContender) -> CachedRun | str:
    """`run`, or why this cache does not work here."""
    try:
        return run(subject, count, contender)
    except (*FAILURES, ImportError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    torch.cuda.empty_cache()
    return reason


def compared(
    subject: Subject, count: int, rounds: int, contenders: Sequence[CacheContender]
) -> Timings:
    """The uncached run and all contenders, each once per round."""
    runs: dict[str, Callable[[], Any]] = {"uncached": partial(run, subject, count, UNCACHED)}
    runs |= {str(i): partial(attempt, subject, count, c) for i, c in enumerate(contenders)}
    timings = interleaved(runs, rounds, subject.device)
    return dict(zip([UNCACHED, *contenders], timings.values(), strict=True))


def near_twice(
    subject: Subject, count: int, uncached: float, make: Callable[[float], CacheContender]
) -> CacheContender:
    """The contender of a threshold that makes the denoiser about twice as fast, by bisection.

    Args:
        subject: what is run.
        count: pictures or videos at once.
        uncached: seconds in the denoiser without a cache.
        make: a contender from its threshold; the higher, the faster.
    """
    low, high = math.log(0.005), math.log(2.0)
    found: list[tuple[float, CacheContender]] = []
    for _ in range(TRIES):
        middle = (low + high) / 2
        contender = make(math.exp(middle))
        tried = attempt(subject, count, contender)
        if isinstance(tried, str):
            return contender
        # In logarithms, as twice as slow is as far off as twice as fast.
        missing = math.log(2 * tried.seconds / uncached)
        found.append((abs(missing), contender))
        if abs(missing) <= CLOSE:
            break
        low, high = (middle, high) if missing > 0 else (low, middle)
    nearest = min(found, key=lambda pair: pair[0])[1]
    return replace(nearest, setting=f"{nearest.setting}, searched for")


def uncached_row(timings: Timings) -> dict[str, Any]:
    """Seconds and peak of the uncached runs."""
    return {
        "denoiser_seconds": median(seconds_in(timings[UNCACHED])),
        "peak_memory_mib": summary(timings[UNCACHED])["peak_memory_mib"],
    }


def row_of(contender: CacheContender, timings: Timings) -> dict[str, Any]:
    """Speed-up and peak of a contender, or why it failed."""
    row: dict[str, Any] = {"method": contender.method, "setting": contender.setting}
    failed = [t.result for t in timings[contender] if isinstance(t.result, str)]
    if failed:
        return row | {"failed": failed[0]}
    seconds, peak = seconds_in(timings[contender]), summary(timings[contender])["peak_memory_mib"]
    without = summary(timings[UNCACHED])["peak_memory_mib"]
    return row | {
        "denoiser_seconds": median(seconds),
        "speedup": ratio(seconds_in(timings[UNCACHED]), seconds),
        "peak_memory_mib": peak,
        "peak_memory_over_uncached_mib": None if peak is None else peak - without,
    }


def seconds_in(timings: Sequence[Timing]) -> list[float]:
    """Seconds inside the denoiser, run by run."""
    return [timing.result.seconds for timing in timings]
