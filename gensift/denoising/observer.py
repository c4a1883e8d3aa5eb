"""Watching a pipeline's denoising loop at `scheduler.step`.

This is where guidance is complete, signs are settled and every pipeline passes by; several have no
usable step callback of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache, cached_property
from types import MethodType
from typing import Any

import torch

from gensift.denoising.copies import attribute_before, leave_out_of_copies, without_attribute
from gensift.denoising.prediction import (
    SchedulerStep,
    is_flow,
    original_sample_estimate,
    sigma_of,
)
from gensift.denoising.scheduler_rows import copy_history, snapshot, try_step
from gensift.errors import ConfigError
from gensift.protocols import AnyFunction, Scheduler, SchedulerOutput, Timestep


@dataclass(frozen=True, eq=False)
class StepEvent:
    """One finished scheduler step. Tensors have all rows of the loop, dead ones included.

    Where the loop carries guidance groups too (DiT), the candidates are the first rows.

    Attributes:
        step_index: 0-based number of the scheduler call in this run.
        num_inference_steps: scheduler calls in this run (PNDM and Heun make more than were asked).
        timestep: the scheduler's own time value.
        sample: latents before the step `(rows, ...)`.
        model_output: guided network output `(rows, ...)`.
        latents: latents after the step `(rows, ...)`; of a step yet to be made, those before it.
        live_rows: candidates still alive when the step was made, or None where nobody said.
    """

    step_index: int
    num_inference_steps: int
    timestep: Timestep
    sample: torch.Tensor
    model_output: torch.Tensor
    latents: torch.Tensor
    live_rows: tuple[int, ...] | None
    _estimate: Callable[[], torch.Tensor] = field(repr=False)
    _sigma: Callable[[], float] = field(repr=False)
    _is_flow: bool = field(repr=False)

    @property
    def is_last(self) -> bool:
        """Whether `latents` are what the pipeline decodes."""
        return self.step_index == self.num_inference_steps - 1

    @cached_property
    def sigma(self) -> float:
        """Noise level of `sample`, see `gensift.denoising.prediction.sigma_of`."""
        return self._sigma()

    @cached_property
    def flow_sigma(self) -> float:
        """Noise level of `sample` on the flow scale, from 1 (pure noise) to 0, for any scheduler.

        Where x = x0 + sigma e, noise makes up the share sigma / (1 + sigma).
        """
        return self.sigma if self._is_flow else self.sigma / (1 + self.sigma)

    @cached_property
    def pred_original_sample(self) -> torch.Tensor:
        """The x0 estimate in latent space, float32 `(rows, ...)`; costs nothing until read.

        Raises:
            UnsupportedPipelineError: the scheduler has no known x0.
        """
        return self._estimate()


OnStep = Callable[[StepEvent], torch.Tensor | None]
BeforeStep = Callable[[StepEvent], Sequence[int] | None]


@contextmanager
def observe_scheduler(
    scheduler: Scheduler,
    on_step: OnStep,
    *,
    num_steps: Callable[[], int] | None = None,
    live_rows: Callable[[], tuple[int, ...] | None] | None = None,
    before_step: BeforeStep | None = None,
) -> Iterator[None]:
    """Call `on_step` after every `scheduler.step`; a tensor it returns replaces the new latents.

    `scheduler.step` is as before on exit, also by an exception. Blocks nest: the inner one sees
    what the outer one made of the step.

    Args:
        scheduler: a diffusers scheduler.
        on_step: gets a `StepEvent`.
        num_steps: returns the scheduler calls in the current run; default `len(timesteps)`, which
            is too many where a pipeline stops early or starts late (`denoising_end`, `strength`).
        live_rows: returns what `StepEvent.live_rows` is to say.
        before_step: called before every step with the event of the step to come; x0 and sigma are
            known by then. Where it returns rows, row `i` makes the step in place of row `rows[i]`:
            with its latents, network output and solver history, and its own noise.
    """
    outer = vars(scheduler).get("step")
    before = attribute_before(scheduler, "step")
    watcher = _Watcher(scheduler, on_step, num_steps, live_rows, before_step)
    own = vars(scheduler)
    own["step"] = MethodType(_watched_step(scheduler, scheduler.step, watcher), scheduler)
    forget = leave_out_of_copies(scheduler, without_attribute(scheduler, "step", before))
    try:
        yield
    finally:
        forget()
        del own["step"]
        if outer is not None:
            own["step"] = outer


def keep_rows(latents: torch.Tensor, order: Sequence[int], num_rows: int) -> torch.Tensor:
    """The rows `order` of latents, in that order, for each guidance group that the loop carries.

    Returned from `on_step` on the last step, the pipeline decodes just these.

    Args:
        latents: `(groups * num_rows, ...)`.
        order: candidate rows to hand on, best first.
        num_rows: candidates in the run.

    Returns:
        `(groups * len(order), ...)`.

    Raises:
        ConfigError: the size is no multiple of `num_rows`, or `order` is empty or out of range.
    """
    groups, rest = divmod(latents.shape[0], num_rows)
    if rest or groups == 0:
        raise ConfigError(
            f"Latents have {latents.shape[0]} rows, not a multiple of {num_rows} candidates."
        )
    if not order or min(order) < 0 or max(order) >= num_rows:
        raise ConfigError(f"Cannot hand on rows {list(order)}; choose among 0..{num_rows - 1}.")
    rows = [row + group * num_rows for group in range(groups) for row in order]
    return latents.index_select(0, torch.tensor(rows, device=latents.device))


class _Watcher:
    """Counts the steps of a run and turns each into an event."""

    def __init__(
        self,
        scheduler: Scheduler,
        on_step: OnStep,
        num_steps: Callable[[], int] | None,
        live_rows: Callable[[], tuple[int, ...] | None] | None,
        before_step: BeforeStep | None,
    ) -> None:
        self._on_step = on_step
        self._before_step = before_step
        self._num_steps = num_steps or (lambda: len(scheduler.timesteps))
        self._live_rows = live_rows or (lambda: None)
        self._step_index = 0

    def rows_before(
        self,
        scheduler: Scheduler,
        model_output: torch.Tensor,
        timestep: Timestep,
        sample: torch.Tensor,
    ) -> Sequence[int] | None:
        """What `before_step` says of the step to come."""
        if self._before_step is None:
            return None
        # The scheduler as it is now, even if the event is read when it has moved on.
        twin = snapshot(scheduler)
        tried = cache(lambda: try_step(twin, model_output, timestep, sample))
        event = StepEvent(
            step_index=self._step_index,
            num_inference_steps=self._num_steps(),
            timestep=timestep,
            sample=sample,
            model_output=model_output,
            latents=sample,
            live_rows=self._live_rows(),
            _estimate=lambda: original_sample_estimate(tried())(),
            _sigma=lambda: sigma_of(tried())(),
            _is_flow=is_flow(scheduler),
        )
        return self._before_step(event)

    def __call__(self, step: SchedulerStep) -> SchedulerOutput:
        event = StepEvent(
            step_index=self._step_index,
            num_inference_steps=self._num_steps(),
            timestep=step.timestep,
            sample=step.sample,
            model_output=step.model_output,
            latents=step.output[0],
            live_rows=self._live_rows(),
            _estimate=original_sample_estimate(step),
            _sigma=sigma_of(step),
            _is_flow=is_flow(step.scheduler),
        )
        # A second run inside the same block starts over.
        self._step_index = 0 if event.is_last else self._step_index + 1
        replacement = self._on_step(event)
        return step.output if replacement is None else _with_latents(step.output, replacement)


def _watched_step(scheduler: Scheduler, inner: AnyFunction, watcher: _Watcher) -> AnyFunction:
    # Pipelines look for `eta` and `generator` in the signature, so it must show through.
    @functools.wraps(type(scheduler).step)
    def step(
        self: Scheduler,
        model_output: torch.Tensor,
        timestep: Timestep,
        sample: torch.Tensor,
        *args: object,
        **kwargs: Any,
    ) -> SchedulerOutput:
        # A deep copy carries this method too, and must step itself, unwatched.
        if self is not scheduler:
            return type(self).step(self, model_output, timestep, sample, *args, **kwargs)
        rows = watcher.rows_before(self, model_output, timestep, sample)
        if rows is not None:
            model_output = keep_rows(model_output, rows, len(rows))
            sample = keep_rows(sample, rows, len(rows))
            copy_history(self, rows)
        output = inner(model_output, timestep, sample, *args, **kwargs)
        return watcher(SchedulerStep(self, model_output, timestep, sample, output))

    return step


def _with_latents(output: SchedulerOutput, latents: torch.Tensor) -> SchedulerOutput:
    if isinstance(output, tuple):
        return (latents, *output[1:])
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, prev_sample=latents)
    raise ConfigError(
        f"scheduler.step returned {type(output).__name__}; a tuple or a diffusers output dataclass "
        "is needed to replace its latents."
    )
