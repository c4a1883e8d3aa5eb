"""Calibrating a BAC: record once, then a schedule for each sub-block, joined where errors surge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from caches.bac.cache import BAC
from caches.bac.config import BACConfig, UnitSchedule
from caches.bac.options import BACOptions
from caches.bac.recorder import SimilarityRecorder, SimilarityStatistics
from caches.evaluation import Denoising
from caches.fingerprint import fingerprint_of
from caches.method import Calibrated, OnStage
from caches.options import Prompts
from caches.planning.bubbling import Unit, bubbling_union, largest_variation
from caches.planning.fewest import fewest_updates
from caches.planning.segments import best_anchors
from caches.planning.uniform import uniform_updates
from caches.recording import recorded
from gensift.errors import ConfigError

BlockPolicy = Literal["blockwise", "shared", "uniform"]
# A fused sub-block holds the feed-forward too.
_FEED_FORWARDS = ("feed-forward", "fused")


def calibrate(
    denoising: Denoising, prompts: Prompts, options: BACOptions, on_stage: OnStage
) -> Calibrated[BACConfig]:
    """Record `prompts` once, and find the schedules that do what is asked for.

    Raises:
        ConfigError: the aim cannot be reached.
        UnsupportedPipelineError: the pipeline cannot be recorded.
    """
    statistics = record_similarity(denoising, prompts)
    bubbling = min(options.num_bubbling, len(statistics.units))
    on_stage("choosing the schedules")

    def schedules(count: int) -> dict[str, tuple[int, ...]]:
        return block_schedules(statistics, count, num_bubbling=bubbling)

    if options.max_error is None:
        count = updates_for_speedup(statistics, options.speedup, bubbling)
    else:
        uncached = denoising.run(prompts)

        def error(updates: int) -> float:
            cache = BAC(config_of(denoising, statistics, schedules(updates)))
            return uncached.error_of(denoising.run(prompts, cache))

        count = fewest_updates(statistics.num_steps, error, options.max_error)
    chosen = schedules(count)
    config = config_of(denoising, statistics, chosen)
    return Calibrated(config, predicted_speedup(statistics, chosen))


def record_similarity(denoising: Denoising, prompts: Prompts) -> SimilarityStatistics:
    """Run the prompts uncached and record all sub-blocks; see `SimilarityRecorder`."""
    recorder = SimilarityRecorder()
    denoising.run(prompts, recorder)
    return recorded(recorder.statistics)


def block_schedules(
    statistics: SimilarityStatistics,
    num_updates: int,
    *,
    policy: BlockPolicy = "blockwise",
    num_bubbling: int = 5,
    always_update_last: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Update steps of each sub-block.

    Args:
        statistics: of recorded runs.
        num_updates: computed steps of each sub-block, before any are added.
        policy: "blockwise" is BAC: each sub-block its own best steps; "shared" those of the first
            sub-block for all; "uniform" evenly spaced ones.
        num_bubbling: sub-blocks (those that change most) which are also computed whenever a
            feed-forward behind them is; 0 for none. Of "blockwise" only.
        always_update_last: compute all sub-blocks at the last step, too. No later step corrects
            what is wrong there, which similarity does not know.

    Raises:
        ConfigError: `num_updates` or `num_bubbling` is out of range.
    """
    schedules = _schedules(statistics, num_updates, policy, num_bubbling)
    last = {statistics.num_steps - 1} if always_update_last else set()
    return {name: tuple(sorted({*updates, *last})) for name, updates in schedules.items()}


def _schedules(
    statistics: SimilarityStatistics, num_updates: int, policy: BlockPolicy, num_bubbling: int
) -> dict[str, tuple[int, ...]]:
    names, steps = list(statistics.units), statistics.num_steps
    if policy == "uniform":
        return dict.fromkeys(names, tuple(uniform_updates(steps, num_updates)))
    if policy == "shared":
        return dict.fromkeys(
            names, best_anchors(statistics.similarity(names[0]), num_updates).updates
        )
    own = [best_anchors(statistics.similarity(name), num_updates).updates for name in names]
    units = [
        Unit(layer=unit.layer, is_feed_forward=unit.kind in _FEED_FORWARDS)
        for unit in statistics.units.values()
    ]
    chosen = largest_variation([statistics.change(name) for name in names], num_bubbling)
    return dict(zip(names, bubbling_union(own, units, chosen), strict=True))


def predicted_speedup(
    statistics: SimilarityStatistics, schedules: Mapping[str, Sequence[int]]
) -> float:
    """How much faster the denoiser is when every sub-block runs at its update steps only."""
    saved = sum(
        statistics.share_of_time(name) * (1 - len(updates) / statistics.num_steps)
        for name, updates in schedules.items()
    )
    return 1 / (1 - min(saved, 0.999))


def updates_for_speedup(
    statistics: SimilarityStatistics, target: float, num_bubbling: int = 5
) -> int:
    """The most updates per sub-block that are still predicted to reach a speed-up of `target`.

    Raises:
        ConfigError: one update per sub-block is not enough.
    """
    for count in range(statistics.num_steps, 0, -1):
        schedules = block_schedules(statistics, count, num_bubbling=num_bubbling)
        if predicted_speedup(statistics, schedules) >= target:
            return count
    best = predicted_speedup(statistics, block_schedules(statistics, 1, num_bubbling=num_bubbling))
    raise ConfigError(
        f"target_speedup is {target}; sub-blocks take only a part of the denoiser's time, so at "
        f"most {best:.2f} is possible. Give less, or use ertacache."
    )


def config_of(
    denoising: Denoising,
    statistics: SimilarityStatistics,
    schedules: Mapping[str, Sequence[int]],
) -> BACConfig:
    """A cache of these schedules."""
    return BACConfig(
        num_steps=statistics.num_steps,
        schedules=tuple(
            UnitSchedule(unit=name, updates=tuple(updates)) for name, updates in schedules.items()
        ),
        fingerprint=fingerprint_of(
            denoising.pipe,
            num_steps=statistics.num_steps,
            sigmas=statistics.sigmas,
            guidance_scale=denoising.guidance_scale,
            latents=statistics.latents,
        ),
    )
