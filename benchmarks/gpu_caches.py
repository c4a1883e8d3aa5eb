"""What feature caches save in time and take in memory, for `benchmarks.gpu`.

* speedup: of the denoiser, with schedules made by hand that skip a half and two thirds of the
  steps, against the ideal that the skipped share of its time allows; the bytes that are held;
* overhead: of an attached cache that skips nothing;
* others: the caches of diffusers and cache-dit, at settings near twice the speed.

Each part is interleaved with uncached runs of its own. Random weights say nothing about quality, so
there is no figure of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.cache_contenders import (
    CacheContender,
    dual_block_cache,
    first_block_cache,
    mag_cache,
    ours,
    pyramid_attention_broadcast,
    taylor_seer,
)
from benchmarks.cached_runs import (
    UNCACHED,
    Timings,
    compared,
    near_twice,
    row_of,
    run,
    seconds_in,
    uncached_row,
)
from benchmarks.gpu_subject import SHORT_STEPS, Extent, Subject
from benchmarks.time_shares import TimeShares, measure_time_shares
from benchmarks.timing import ratio
from caches.bac.cache import BAC
from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import units_of
from caches.cache import Cache
from caches.ertacache.cache import ERTACache
from caches.ertacache.config import ERTACacheConfig, ResidualMode
from samplers.diffusion.schedule import UnitCosts

LEAST_OF_IDEAL, MOST_OVERHEAD = 0.95, 1.01
"""What is accepted."""
INTERVALS = (2, 3)
"""Every how many steps the denoiser, or a sub-block, is computed."""
MOST_PICTURES = 4
"""Pictures drawn at once; of videos it is one."""
ROUND_COSTS = {"caches.speedup": 4.5, "caches.overhead": 4.0, "caches.others": 10.0}
"""About how long a round takes, in uncached runs, with its share of the warm-up and of the search
for thresholds."""


@dataclass(frozen=True)
class HandMade:
    """A cache of ours on a schedule made by hand.

    Attributes:
        contender: the cache.
        skipped_share: of the evaluations of what it reuses.
        time_share: of the denoiser's time that is spent in what it reuses.
    """

    contender: CacheContender
    skipped_share: float
    time_share: float

    @property
    def ideal(self) -> float:
        """The speed-up if skipping took no time, and all else as long as before."""
        return 1 / (1 - self.time_share * self.skipped_share)


def rows_of(subject: Subject, extent: Extent) -> int:
    """Pictures or videos that are drawn at once."""
    return 1 if subject.is_video else min(MOST_PICTURES, extent.candidates)


def step_seconds(subject: Subject, extent: Extent) -> float:
    """Seconds of one denoising step of one picture or video, guidance included."""
    count = rows_of(subject, extent)
    run(subject, count, UNCACHED, SHORT_STEPS)  # warm-up: first calls choose kernels
    return run(subject, count, UNCACHED, SHORT_STEPS).seconds / (SHORT_STEPS * count)


def speedup(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Speed-up and memory of ERTACache and BAC, against the ideal."""
    count = rows_of(subject, extent)
    short = partial(run, subject, count, UNCACHED, SHORT_STEPS)
    short()
    shares = measure_time_shares(subject.denoiser, short, subject.device)
    planned = hand_made(subject, shares)
    timings = compared(subject, count, rounds, [item.contender for item in planned])
    return {
        "rows": count,
        "rounds": rounds,
        "least_of_ideal": LEAST_OF_IDEAL,
        "time_shares": {
            "blocks": shares.blocks,
            "units": shares.all_units,
            "units_by_kind": shares.units_by_kind,
        },
        "uncached": uncached_row(timings),
        "contenders": [_against_ideal(item, timings) for item in planned],
    }


def overhead(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Seconds in the denoiser with a cache that skips nothing, over those without one."""
    count = rows_of(subject, extent)
    contenders = [contender for contender, _ in our_caches(subject, 1)]
    timings = compared(subject, count, rounds, contenders)
    return {
        "rows": count,
        "rounds": rounds,
        "most_overhead": MOST_OVERHEAD,
        "uncached": uncached_row(timings),
        "contenders": [_against_uncached(contender, timings) for contender in contenders],
    }


def others(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Speed-up and memory of the caches of diffusers and cache-dit."""
    count, steps = rows_of(subject, extent), subject.steps
    uncached = run(subject, count, UNCACHED).seconds
    contenders = [
        near_twice(subject, count, uncached, first_block_cache),
        # Ratios of 1 say that nothing changes, so that only the skips in a row are limited.
        mag_cache([1.0] * steps, steps, 0.06, 2),
        taylor_seer(3, 1, True),
        taylor_seer(3, 1, False),
        pyramid_attention_broadcast(subject.pipe, 2),
        near_twice(subject, count, uncached, partial(dual_block_cache, steps)),
    ]
    timings = compared(subject, count, rounds, contenders)
    return {
        "rows": count,
        "rounds": rounds,
        "uncached": uncached_row(timings),
        "contenders": [row_of(contender, timings) for contender in contenders],
    }


PARTS = {"speedup": speedup, "overhead": overhead, "others": others}


def our_caches(subject: Subject, every: int) -> list[tuple[CacheContender, str]]:
    """Ours, computing every so many steps, and what each of them reuses."""
    steps = subject.steps
    updates = tuple(range(0, steps, every))
    schedules = tuple(
        UnitSchedule(unit=unit.name, updates=updates) for unit in units_of(subject.denoiser)
    )

    def erta(mode: ResidualMode) -> CacheContender:
        config = ERTACacheConfig(num_steps=steps, updates=updates, residual=mode)
        return ours("ERTACache", f"{mode}, every {every}", lambda: ERTACache(config))

    def bac() -> Cache:
        return BAC(BACConfig(num_steps=steps, schedules=schedules))

    return [
        (erta("increment"), "denoiser"),
        (erta("body"), "blocks"),
        (ours("BAC", f"all sub-blocks, every {every}", bac), "units"),
    ]


def hand_made(subject: Subject, shares: TimeShares) -> list[HandMade]:
    """Ours on all schedules."""
    # Where nothing can stand for the blocks the cache fails, and its ideal is not used.
    saved = {"denoiser": 1.0, "blocks": shares.blocks or 0.0, "units": shares.all_units}
    return [
        HandMade(contender, 1 - math.ceil(subject.steps / every) / subject.steps, saved[reused])
        for every in INTERVALS
        for contender, reused in our_caches(subject, every)
    ]


def _against_ideal(item: HandMade, timings: Timings) -> dict[str, Any]:
    row = row_of(item.contender, timings)
    if "failed" in row:
        return row
    runs = [timing.result for timing in timings[item.contender]]
    of_ideal = row["speedup"]["ratio"] / item.ideal
    return row | {
        "skipped_share": item.skipped_share,
        "reused_share": runs[0].report.reused_share,
        "refused_rows": runs[0].report.refused,
        "time_share": item.time_share,
        "ideal_speedup": item.ideal,
        "of_ideal": of_ideal,
        "is_accepted": of_ideal >= LEAST_OF_IDEAL,
        "num_bytes": max(run.num_bytes for run in runs),
    }


def _against_uncached(contender: CacheContender, timings: Timings) -> dict[str, Any]:
    row = row_of(contender, timings)
    if "failed" in row:
        return row
    over = ratio(seconds_in(timings[contender]), seconds_in(timings[UNCACHED]))
    return row | {"over_uncached": over, "is_accepted": over["ratio"] <= MOST_OVERHEAD}
