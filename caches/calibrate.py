"""Calibrating a cache for a pipeline: one entry for all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caches.bac import calibration as bac
from caches.bac.cache import BAC
from caches.cache import Cache
from caches.ertacache.cache import ERTACache
from caches.ertacache.calibration import (
    Schedule,
    best_variant,
    choose_schedule,
    plain_config,
    record_reuse,
    threshold_schedule,
    updates_for_speedup,
)
from caches.ertacache.closed_loop import closed_loop_updates
from caches.ertacache.config import ResidualMode
from caches.ertacache.recorder import ReuseStatistics
from caches.evaluation import Denoising, Outcome
from caches.options import CalibrationOptions
from caches.profile import Profile
from gensift.config import to_dict
from gensift.errors import ConfigError

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """A calibrated cache and what was measured of it.

    Attributes:
        cache: ready to be attached.
        profile: to be written to a file.
        schedule: for each part of the denoiser, in order, the steps at which it is computed.
        num_steps: of the loop.
        predicted_speedup: of the denoiser, from its parts.
        measured_speedup: of the whole denoising, by wall time, on held-out prompts.
        error: mean relative distance of the last latents, on held-out prompts.
        variants: of ertacache, that error on the prompts it was fitted to, by variant.
    """

    cache: Cache
    profile: Profile
    schedule: Mapping[str, tuple[int, ...]]
    num_steps: int
    predicted_speedup: float
    measured_speedup: float
    error: float
    variants: Mapping[str, float] = field(default_factory=dict)


def calibrate(
    pipe: Any,
    prompts: Sequence[Any],
    options: CalibrationOptions,
    *,
    on_stage: OnStage = lambda name: None,
    **pipeline_kwargs: Any,
) -> Calibration:
    """Record uncached runs, choose a schedule for what is asked, and measure it.

    Every other prompt is held out: nothing is fitted to it, and the figures are measured on it.

    Args:
        pipe: a diffusers pipeline whose denoiser is declared, without a cache.
        prompts: at least 4; 20 do. Of a policy, observations.
        options: what to aim at.
        on_stage: told what is being done.
        pipeline_kwargs: of the pipeline's call, such as `num_inference_steps`.

    Raises:
        ConfigError: too few prompts, or the aim cannot be reached.
        UnsupportedPipelineError: the pipeline cannot be recorded.
    """
    if len(prompts) < 4:
        raise ConfigError(
            f"{len(prompts)} prompts were given; half of them are held out, so give at least 4 (20 "
            "do as well as 1,000 in the paper)."
        )
    denoising = Denoising(pipe, pipeline_kwargs, options.batch_prompts, options.seed)
    fitted, held_out = prompts[::2], prompts[1::2]
    make = _ertacache if options.cache == "ertacache" else _bac
    on_stage("recording")
    cache, schedule, speedup, variants = make(denoising, fitted, options, on_stage)
    on_stage("measuring on held-out prompts")
    error, measured = denoising.compare(held_out, cache)
    config: Any = cache.config  # type: ignore[attr-defined]
    found = {
        "predicted_speedup": speedup,
        "measured_speedup": measured,
        "error": error,
    }
    report = {
        **found,
        "variants": dict(variants),
        "prompts": len(fitted),
        "held_out_prompts": len(held_out),
        "options": to_dict(options),
    }
    profile = Profile.of(cache.name, config, report)
    return Calibration(cache, profile, schedule, config.num_steps, variants=dict(variants), **found)


_Made = tuple[Cache, dict[str, tuple[int, ...]], float, Mapping[str, float]]


def _ertacache(
    denoising: Denoising,
    fitted: Sequence[Any],
    options: CalibrationOptions,
    on_stage: OnStage,
) -> _Made:
    statistics = record_reuse(denoising, fitted, options.max_reuse)
    on_stage("choosing the schedule")
    uncached = denoising.run(fitted)
    modes = [mode for mode in statistics.modes if options.residual in ("auto", mode)]
    configs = [
        plain_config(denoising, statistics, schedule)
        for mode in modes
        for schedule in _schedules(denoising, fitted, uncached, statistics, options, mode)
    ]
    if not configs:
        raise ConfigError(
            f"`residual` is {options.residual!r}, which this denoiser does not have; it has "
            f"{', '.join(statistics.modes)}. Give one of those, or auto."
        )
    # Which residual errs least over a whole run is not what single steps say: runs tell.
    config = min(
        configs, key=lambda found: uncached.error_of(denoising.run(fitted, ERTACache(found)))
    )
    variants: dict[str, float] = {}
    if options.mend:
        on_stage("mending its error")
        config, variants = best_variant(denoising, fitted, uncached, config, statistics)
    speedup = statistics.speedup(config.residual, len(config.updates))
    return ERTACache(config), {"denoiser": config.updates}, speedup, variants


def _schedules(
    denoising: Denoising,
    prompts: Sequence[Any],
    uncached: Outcome,
    statistics: ReuseStatistics,
    options: CalibrationOptions,
    mode: ResidualMode,
) -> list[Schedule]:
    """The schedule that does what is asked for with this residual; none if it cannot."""
    last = statistics.num_steps - 1
    limits: dict[str, Any] = {
        "must_update": (0, last) if options.always_last else (0,),
        "max_reuse": options.max_reuse,
    }
    if options.closed_loop and options.threshold is not None:
        if mode == "body":
            return []
        updates = closed_loop_updates(denoising, prompts, options.threshold, mode, **limits)
        return [Schedule(updates=updates, mode=mode)]
    if options.threshold is not None:
        return [threshold_schedule(statistics, options.threshold, mode, **limits)]
    if options.max_error is None:
        count = updates_for_speedup(statistics, mode, options.speedup)
    else:

        def error(updates: int) -> float:
            schedule = choose_schedule(statistics, updates, mode, **limits)
            config = plain_config(denoising, statistics, schedule)
            return uncached.error_of(denoising.run(prompts, ERTACache(config)))

        count = _fewest(statistics.num_steps, error, options.max_error)
    return [choose_schedule(statistics, count, mode, **limits)]


def _bac(
    denoising: Denoising,
    fitted: Sequence[Any],
    options: CalibrationOptions,
    on_stage: OnStage,
) -> _Made:
    statistics = bac.record_similarity(denoising, fitted)
    bubbling = min(options.num_bubbling, len(statistics.units))
    on_stage("choosing the schedules")

    def schedules(count: int) -> dict[str, tuple[int, ...]]:
        return bac.block_schedules(statistics, count, num_bubbling=bubbling)

    if options.max_error is None:
        count = bac.updates_for_speedup(statistics, options.speedup, bubbling)
    else:
        uncached = denoising.run(fitted)

        def error(updates: int) -> float:
            cache = BAC(bac.config_of(denoising, statistics, schedules(updates)))
            return uncached.error_of(denoising.run(fitted, cache))

        count = _fewest(statistics.num_steps, error, options.max_error)
    chosen = schedules(count)
    cache = BAC(bac.config_of(denoising, statistics, chosen))
    return cache, chosen, bac.predicted_speedup(statistics, chosen), {}


def _fewest(steps: int, error: Callable[[int], float], limit: float) -> int:
    """The fewest updates whose error keeps the limit, by bisection; errors fall with updates."""
    low, high = 1, steps
    while low < high:
        middle = (low + high) // 2
        try:
            is_enough = error(middle) <= limit
        except ConfigError:  # so few are not possible with the longest reuse allowed
            is_enough = False
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return high
