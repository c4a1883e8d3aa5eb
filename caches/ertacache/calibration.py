"""Calibrating an ERTACache: record once, choose the schedule, then what mends its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from caches.ertacache.cache import EULER_SOLVERS, ERTACache
from caches.ertacache.config import ERTACacheConfig, ResidualMode, StepRectification
from caches.ertacache.recorder import ReuseRecorder, ReuseStatistics, ShareRule
from caches.evaluation import Denoising, Outcome
from caches.planning.rectification import choose_rectification
from caches.planning.segments import best_segments
from caches.planning.threshold import reuse_below
from caches.profile import fingerprint_of
from caches.recording import recorded
from gensift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which steps are computed, and what is kept between them."""

    updates: tuple[int, ...]
    mode: ResidualMode


def record_reuse(
    denoising: Denoising,
    prompts: Sequence[str],
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
    """A cache of this schedule alone, without steps moved or errors mended."""
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
    prompts: Sequence[str],
    uncached: Outcome,
    config: ERTACacheConfig,
    statistics: ReuseStatistics,
) -> tuple[ERTACacheConfig, dict[str, float]]:
    """The variant of `config` that ends nearest to the uncached runs, and the error of each.

    Tried are the schedule alone, with its steps moved, with errors mended, and with both; moments
    for the latter are recorded anew on the moved steps.
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
