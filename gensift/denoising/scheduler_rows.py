"""Schedulers seen as one state per row: copying rows, and steps that leave no trace."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from gensift.denoising.prediction import SchedulerStep
from gensift.denoising.row_selection import RowSelection, select_nested
from gensift.errors import UnsupportedPipelineError
from gensift.protocols import Arguments, Scheduler

# What each scheduler remembers of earlier steps, a row per candidate (dim 0).
_HISTORY: dict[str, tuple[str, ...]] = {
    "DDIMScheduler": (),
    "DDPMScheduler": (),
    "DPMSolverMultistepScheduler": ("model_outputs",),
    "EulerAncestralDiscreteScheduler": (),
    "EulerDiscreteScheduler": (),
    "FlowMatchEulerDiscreteScheduler": (),
    "LCMScheduler": (),
    "PNDMScheduler": ("ets", "cur_sample"),
    "UniPCMultistepScheduler": ("model_outputs", "last_sample"),
}


def check_copyable(scheduler: Scheduler) -> None:
    """Raise UnsupportedPipelineError unless it is known what the scheduler remembers per row."""
    _history_of(scheduler)


def copy_history(scheduler: Scheduler, rows: Sequence[int]) -> None:
    """Let row `i` have the past of row `rows[i]`; without it a copy would go another way.

    Raises:
        UnsupportedPipelineError: it is not known what the scheduler remembers.
    """
    selection = RowSelection(rows)
    for name in _history_of(scheduler):
        value = getattr(scheduler, name)
        setattr(scheduler, name, select_nested(value, len(rows), selection, name))


def try_step(scheduler: Scheduler, model_output: Any, timestep: Any, sample: Any) -> SchedulerStep:
    """The step that `scheduler` would make, made by a copy; neither it nor any generator moves.

    Of the latents after a random step only the distribution is right; x0 and sigma are the same.
    """
    twin = snapshot(scheduler)
    arguments: Arguments = {}
    if "generator" in inspect.signature(type(scheduler).step).parameters:
        # Without one the noise would come out of the global stream.
        arguments["generator"] = torch.Generator().manual_seed(0)
    # By the class: an observed scheduler's own `step` belongs to the original.
    output = type(scheduler).step(twin, model_output, timestep, sample, **arguments)
    return SchedulerStep(twin, model_output, timestep, sample, output)


def snapshot(scheduler: Scheduler) -> Any:
    """A copy of the scheduler whose steps leave the original alone; tensors are shared."""
    twin = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        # Histories are lists that are changed in place.
        if isinstance(value, list):
            setattr(twin, name, list(value))
    return twin


def _history_of(scheduler: Scheduler) -> tuple[str, ...]:
    for cls in type(scheduler).__mro__:
        if cls.__name__ in _HISTORY:
            return _HISTORY[cls.__name__]
    raise UnsupportedPipelineError(
        f"What {type(scheduler).__name__} remembers of each candidate is not known here, so none "
        f"can be copied. Use one of {', '.join(sorted(_HISTORY))}."
    )
