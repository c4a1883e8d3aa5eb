"""Calibrating an ERTACache: record once, choose the schedule, then what corrects its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from caches.ertacache.cache import EULER_SOLVERS, ERTACache
from caches.ertacache.closed_loop import closed_loop_updates
from caches.ertacache.config import ERTACacheConfig, ResidualMode, StepRectification
from caches.ertacache.options import ERTACacheOptions
from caches.ertacache.recorder import ReuseRecorder, ReuseStatistics, ShareRule
from caches.evaluation import Denoising, Outcome
from caches.fingerprint import fingerprint_of
from caches.method import Calibrated, OnStage
from caches.options import Prompts
from caches.planning.fewest import fewest_updates
from caches.planning.rectification import choose_rectification
from caches.planning.segments import best_segments
from caches.planning.threshold import reuse_below
from caches.recording import recorded
from gensift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which steps are computed, and what is kept between them."""

    updates: tuple[int, ...]
    mode: ResidualMode


class _Limits(TypedDict):
    """What every schedule keeps to; see `choose_schedule`."""

    must_update: tuple[int, ...]
    max_reuse: int


def calibrate(
    denoising: Denoising, prompts: Prompts, options: ERTACacheOptions, on_stage: OnStage
) -> Calibrated[ERTACacheConfig]:
    """Record `prompts` once, and find the schedule that does what is asked for.

    Raises:
        ConfigError: the aim cannot be reached, or the denoiser has no such residual.
        UnsupportedPipelineError: the pipeline cannot be recorded.
    """
    statistics = record_reuse(denoising, prompts, options.max_reuse)
    on_stage("choosing the schedule")
    uncached = denoising.run(prompts)
    modes = [mode for mode in statistics.modes if options.residual in ("auto", mode)]
    configs = [
        plain_config(denoising, statistics, schedule)
        for mode in modes
        for schedule in _schedules(denoising, prompts, uncached, statistics, options, mode)
    ]
    if not configs:
        raise ConfigError(
            f"`residual` is {options.residual!r}, which this denoiser does not have; it has "
            f"{', '.join(statistics.modes)}. Give one of those, or auto."
        )
    # Which residual errs least over a whole run is not what single steps say: runs tell.
    config = min(
        configs, key=lambda found: uncached.error_of(denoising.run(prompts, ERTACache(found)))
    )
    variants: dict[str, float] = {}
    if options.correct:
        on_stage("correcting its error")
        config, variants = best_variant(denoising, prompts, uncached, config, statistics)
    return Calibrated(config, statistics.speedup(config.residual, len(config.updates)), variants)


def _schedules(
    denoising: Denoising,
    prompts: Prompts,
    uncached: Outcome,
    statistics: ReuseStatistics,
    options: ERTACacheOptions,
    mode: ResidualMode,
) -> list[Schedule]:
    """The schedule that does what is asked for with this residual; none if it cannot."""
    last = statistics.num_steps - 1
    limits: _Limits = {
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

        count = fewest_updates(statistics.num_steps, error, options.max_error)
    return [choose_schedule(statistics, count, mode, **limits)]


def record_reuse(
    denoising: Denoising,
    prompts: Prompts,
    max_reuse: int,
    moved: ERTACacheConfig | None = None,
) -> ReuseStatistics:
    """Run the prompts uncached and sum up what reuse would have cost; see `ReuseRecorder`.

    Raises:
        UnsupportedPipelineError: the pipeline cannot be recorded.
    """
    recorder = ReuseRecorder(max_reuse, moved)

    def begin_batch(first: int, count: int) -> None:
        recorder.first_prompt, recorder.num_prompts = first, count

    denoising.run(prompts, recorder, on_batch=begin_batch)
    return recorded(recorder.statistics)


def choose_schedule(
    statistics: ReuseStatistics,
    num_updates: int,
    mode: ResidualMode,
    *,
    must_update: Sequence[int] = (0,),
    max_reuse: int | None = None,
) -> Schedule:
    """The schedule of `num_updates` computed steps with the least summed reuse error.

    Args:
        statistics: of recorded runs.
        num_updates: computed steps.
        mode: what is kept.
        must_update: steps that are computed in any case.
        max_reuse: longest run of reused steps.

    Raises:
        ConfigError: no such schedule is possible.
    """
    found = best_segments(
        statistics.cost(mode), num_updates, must_update=must_update, max_reuse=max_reuse
    )
    return Schedule(updates=found.updates, mode=mode)


def updates_for_speedup(statistics: ReuseStatistics, mode: ResidualMode, target: float) -> int:
    """The most updates with which the denoiser is still `target` times faster.

    Raises:
        ConfigError: not even one is few enough.
    """
    for count in range(statistics.num_steps, 0, -1):
        if statistics.speedup(mode, count) >= target:
            return count
    raise ConfigError(
        f"target_speedup is {target}; a loop of {statistics.num_steps} steps allows for at most "
        f"{statistics.speedup(mode, 1):.1f}. Give less."
    )


def threshold_schedule(
    statistics: ReuseStatistics,
    threshold: float,
    mode: ResidualMode = "increment",
    *,
    must_update: Sequence[int] = (0,),
    max_reuse: int | None = None,
) -> Schedule:
    """ERTACache's own rule: compute when the error against the last computed step is too large."""
    updates = reuse_below(
        statistics.cost(mode), threshold, must_update=must_update, max_reuse=max_reuse
    )
    return Schedule(updates=tuple(updates), mode=mode)


def plain_config(
    denoising: Denoising, statistics: ReuseStatistics, schedule: Schedule
) -> ERTACacheConfig:
    """A cache of this schedule alone, without steps moved or errors corrected."""
    return ERTACacheConfig(
        num_steps=statistics.num_steps,
        updates=schedule.updates,
        residual=schedule.mode,
        groups=statistics.groups,
        fingerprint=fingerprint_of(
            denoising.pipe,
            num_steps=statistics.num_steps,
            sigmas=statistics.sigmas,
            guidance_scale=denoising.guidance_scale,
            latents=statistics.latents,
        ),
    )


def with_moved_steps(
    config: ERTACacheConfig, statistics: ReuseStatistics, rule: ShareRule = "velocity"
) -> ERTACacheConfig:
    """`config` with the steps moved as ERTACache does: reused steps shortened by their error."""
    table = statistics.step_shares(config.residual, rule)
    shares = [
        1.0 if step in config.updates else float(table[config.last_update(step), step])
        for step in range(config.num_steps)
    ]
    return replace(config, step_shares=tuple(shares))


def with_rectification(config: ERTACacheConfig, statistics: ReuseStatistics) -> ERTACacheConfig:
    """`config` with the linear part of each error taken off, where held-out prompts gain by it."""
    found = []
    for key, moments in statistics.fitted.items():
        mode, branch, anchor, step = key
        is_used = step not in config.updates and anchor == config.last_update(step)
        if mode != config.residual or not is_used or key not in statistics.held_out:
            continue
        chosen = choose_rectification(moments, statistics.held_out[key])
        if chosen.granularity != "none":
            slope, offset = (tuple(map(float, v)) for v in (chosen.slope, chosen.offset))
            found.append(StepRectification(branch=branch, step=step, slope=slope, offset=offset))
    return replace(config, rectification=tuple(found))


def can_move_steps(denoising: Denoising) -> bool:
    """Whether the pipeline's solver allows for steps of other lengths."""
    return type(denoising.pipe.scheduler).__name__ in EULER_SOLVERS


def best_variant(
    denoising: Denoising,
    prompts: Prompts,
    uncached: Outcome,
    config: ERTACacheConfig,
    statistics: ReuseStatistics,
) -> tuple[ERTACacheConfig, dict[str, float]]:
    """The variant of `config` that ends nearest to the uncached runs, and the error of each.

    Tried are the schedule alone, with its steps moved, with errors corrected, and with both;
    moments for the latter are recorded anew on the moved steps.
    """
    variants = {"policy": config, "rectified": with_rectification(config, statistics)}
    if can_move_steps(denoising):
        moved = with_moved_steps(config, statistics)
        again = record_reuse(denoising, prompts, longest_reuse(config), moved)
        variants["moved"] = moved
        variants["moved and rectified"] = with_rectification(moved, again)
    errors = {
        name: uncached.error_of(denoising.run(prompts, ERTACache(variant)))
        for name, variant in variants.items()
    }
    return variants[min(errors, key=errors.__getitem__)], errors


def longest_reuse(config: ERTACacheConfig) -> int:
    """Most steps that follow on an update without another."""
    ends = (*config.updates[1:], config.num_steps)
    return max(1, max(end - start - 1 for start, end in zip(config.updates, ends, strict=True)))
