"""Renoising schedules: denoising loops that go down, up again by adding noise, and down once more.

A pipeline loops over `scheduler.timesteps`. Repeating some of them makes it denoise a stretch
again; whoever watches the loop re-noises the latents where it jumps up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

from torch import Tensor

from gensift.denoising.modules import move_scheduler
from gensift.denoising.observer import observe_scheduler
from gensift.denoising.prediction import euler_advice, is_flow
from gensift.errors import UnsupportedPipelineError
from gensift.protocols import Pipeline, Scheduler
from samplers.diffusion.call import PipelineCall

# Their step depends on the latents and the time alone, so any stretch may be walked again.
MEMORYLESS = ("DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")


@dataclass(frozen=True)
class Segment:
    """A stretch of denoising: the steps `start` to `end` - 1 of the plain loop."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


def renoise_segments(
    num_steps: int, start: float, renoise: float, denoise: float
) -> tuple[Segment, ...]:
    """The segments of a loop of `num_steps` plain steps, the first one from pure noise.

    Shares of the loop are rounded to steps: at least one before the first jump and one after it,
    at least one up unless `renoise` is 0, and each segment ends below the one before. The last
    segment is cut off at the end of the loop.

    Args:
        num_steps: of the plain loop, at least 2.
        start: share of the loop before the first jump.
        renoise: share that each jump goes back up.
        denoise: share that each segment after a jump goes down.
    """
    at = min(max(1, round(start * num_steps)), num_steps - 1)
    up = max(1, round(renoise * num_steps)) if renoise else 0
    segments = [Segment(0, at)]
    while at < num_steps:
        begin = max(0, at - up)
        at = min(max(begin + round(denoise * num_steps), at + 1), num_steps)
        segments.append(Segment(begin, at))
    return tuple(segments)


@dataclass(frozen=True)
class NoiseLevel:
    """How latents are made up: x = signal * x0 + noise * e."""

    signal: float
    noise: float


def renoised(latents: Tensor, source: NoiseLevel, target: NoiseLevel, noise: Tensor) -> Tensor:
    """Latents carried from level `source` up to `target` by the forward process, exactly.

    x' = r x + sqrt(n'^2 - r^2 n^2) e, with r the ratio of the signals. For x = x0 + sigma e that
    adds noise of variance sigma'^2 - sigma^2; for the variance-preserving process
    r = sqrt(a' / a) and the variance is 1 - a' / a.

    Args:
        latents: `(rows, ...)` at `source`, which has a signal.
        source: the lower level.
        target: the higher level.
        noise: standard Gaussian `(rows, ...)`.
    """
    ratio = target.signal / source.signal
    spread = math.sqrt(max(0.0, target.noise**2 - (ratio * source.noise) ** 2))
    carried: Tensor = ratio * latents.double() + spread * noise.to(latents.device).double()
    return carried.to(latents.dtype)


def check_memoryless(scheduler: Scheduler) -> None:
    """Raise UnsupportedPipelineError for solvers that remember steps, or have no known levels."""
    name = type(scheduler).__name__
    if name not in MEMORYLESS:
        raise UnsupportedPipelineError(
            f"{name} cannot walk a stretch of its loop again (it remembers earlier steps, or its "
            f"levels are not known here); use one of {', '.join(MEMORYLESS)}: "
            f"{euler_advice(name)}."
        )


class RenoiseSchedule:
    """A scheduler's plain levels, and its place in a loop that goes down and up.

    Attributes:
        steps: plain step index of each step of the renoising loop.
    """

    def __init__(self, scheduler: Scheduler, steps: Sequence[int]) -> None:
        self.steps = tuple(steps)
        self._scheduler = scheduler
        self._before: list[NoiseLevel] = []
        self._after: list[NoiseLevel] = []

    def unroll(self) -> None:
        """Replace the timesteps that the scheduler has just set by those of the renoising loop."""
        scheduler = self._scheduler
        plain = scheduler.timesteps
        if len(plain) != max(self.steps) + 1:
            raise UnsupportedPipelineError(
                f"The pipeline set {len(plain)} timesteps where {max(self.steps) + 1} were "
                "planned; give num_inference_steps, and neither interrupt nor shorten the loop."
            )
        self._before, self._after = _levels(scheduler)
        scheduler.timesteps = plain[list(self.steps)]
        # Otherwise the first step would be looked up among timesteps that occur twice.
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)

    def advance(self, step_index: int) -> None:
        """Call after step `step_index` of the renoising loop: the next one may be a jump."""
        if step_index + 1 < len(self.steps):
            move_scheduler(self._scheduler, self.steps[step_index + 1])

    def following(self, call: PipelineCall) -> PipelineCall:
        """The call whose loop this schedule follows, last of all that watch it."""
        function = call.function

        @functools.wraps(function)
        def followed(pipe: Pipeline, **arguments: Any) -> Any:
            with observe_scheduler(
                self._scheduler,
                lambda event: self.advance(event.step_index),
                num_steps=lambda: len(self.steps),
            ):
                return function(pipe, **arguments)

        return replace(call, function=followed)

    def renoised(self, latents: Tensor, last: int, begin: int, noise: Tensor) -> Tensor:
        """Latents `(rows, ...)` that plain step `last` gave, noised to what step `begin` takes."""
        return renoised(latents, self._after[last], self._before[begin], noise)


@contextmanager
def renoised_loop(scheduler: Scheduler, segments: Sequence[Segment]) -> Iterator[RenoiseSchedule]:
    """Make runs inside the block go along `segments`; `set_timesteps` is as before on exit.

    Raises:
        UnsupportedPipelineError: the scheduler remembers earlier steps.
    """
    check_memoryless(scheduler)
    renoising = RenoiseSchedule(
        scheduler, [step for segment in segments for step in range(segment.start, segment.end)]
    )
    inner, own = scheduler.set_timesteps, vars(scheduler).get("set_timesteps")

    # Pipelines look for `sigmas` and `timesteps` in the signature, so it must show through.
    @functools.wraps(type(scheduler).set_timesteps)
    def set_timesteps(self: Any, *args: object, **kwargs: Any) -> None:
        if self is not scheduler:
            type(self).set_timesteps(self, *args, **kwargs)
            return
        inner(*args, **kwargs)
        renoising.unroll()

    vars(scheduler)["set_timesteps"] = MethodType(set_timesteps, scheduler)
    try:
        yield renoising
    finally:
        del vars(scheduler)["set_timesteps"]
        if own is not None:
            vars(scheduler)["set_timesteps"] = own


def segment_ends(segments: Sequence[Segment]) -> list[int]:
    """The step of the whole loop that each segment ends with."""
    ends, steps = [], 0
    for segment in segments:
        steps += len(segment)
        ends.append(steps - 1)
    return ends


def _levels(scheduler: Scheduler) -> tuple[list[NoiseLevel], list[NoiseLevel]]:
    """Levels before and after each plain step."""
    if type(scheduler).__name__ == "DDIMScheduler":
        return _variance_preserving_levels(scheduler)
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    levels = [NoiseLevel(1 - s if is_flow(scheduler) else 1.0, s) for s in sigmas]
    return levels[:-1], levels[1:]


def _variance_preserving_levels(scheduler: Scheduler) -> tuple[list[NoiseLevel], list[NoiseLevel]]:
    # DDIM goes down by a fixed stride of training steps, whatever the next timestep is.
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    times = [int(timestep) for timestep in scheduler.timesteps]

    def level(time: int) -> NoiseLevel:
        alpha = scheduler.alphas_cumprod[time] if time >= 0 else scheduler.final_alpha_cumprod
        return NoiseLevel(math.sqrt(float(alpha)), math.sqrt(1 - float(alpha)))

    return [level(time) for time in times], [level(time - stride) for time in times]
