"""The estimate of the clean latents (x0) and the noise level at a scheduler step.

Most schedulers compute x0 anyway, after their own clipping; where one keeps or returns it, that
value is taken, otherwise the textbook formula. Everything is captured by reference right after the
step and computed only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gensift.errors import UnsupportedPipelineError
from gensift.protocols import PipelineOutput, Scheduler


@dataclass(frozen=True, eq=False)
class SchedulerStep:
    """One finished call of `scheduler.step`: its arguments and what it returned.

    Attributes:
        scheduler: the scheduler, in its state right after the call.
        model_output: guided network output `(rows, ...)`.
        timestep: the scheduler's own time value.
        sample: latents before the step `(rows, ...)`.
        output: what `step` returned, tuple or dataclass.
    """

    scheduler: Scheduler
    model_output: torch.Tensor
    timestep: Any
    sample: torch.Tensor
    output: PipelineOutput


Estimate = Callable[[], torch.Tensor]


def _returned(step: SchedulerStep) -> Estimate:
    pred_original_sample = step.output[1]
    return lambda: pred_original_sample.float()


def _stored_by_dpm_solver(step: SchedulerStep) -> Estimate:
    algorithm = step.scheduler.config.algorithm_type
    if not algorithm.endswith("++"):
        return _refusal(f"algorithm_type={algorithm!r}", "algorithm_type='dpmsolver++'")
    return _newest_stored(step)


def _stored_by_unipc(step: SchedulerStep) -> Estimate:
    if not step.scheduler.config.predict_x0:
        return _refusal("predict_x0=False", "predict_x0=True")
    return _newest_stored(step)


def _newest_stored(step: SchedulerStep) -> Estimate:
    # These solvers integrate the data prediction, so their history holds x0 itself.
    pred_original_sample = step.scheduler.model_outputs[-1]
    return lambda: pred_original_sample.float()


def _straight_flow(step: SchedulerStep) -> Estimate:
    # x = (1 - sigma) x0 + sigma e and v = e - x0, hence x0 = x - sigma v. The index is read after
    # the step, as several pipelines leave it unset before the first one.
    sigma = step.scheduler.sigmas[step.scheduler.step_index - 1]
    return lambda: step.sample.float() - sigma.float() * step.model_output.float()


def _variance_preserving(step: SchedulerStep) -> Estimate:
    def estimate() -> torch.Tensor:
        alpha: torch.Tensor = step.scheduler.alphas_cumprod[int(step.timestep)].float()
        x, prediction = step.sample.float(), step.model_output.float()
        if step.scheduler.config.prediction_type == "v_prediction":
            # x0 = sqrt(a) x - sqrt(1 - a) v
            return alpha.sqrt() * x - (1 - alpha).sqrt() * prediction
        # x = sqrt(a) x0 + sqrt(1 - a) e
        return (x - (1 - alpha).sqrt() * prediction) / alpha.sqrt()

    return estimate


_RULES: dict[str, Callable[[SchedulerStep], Estimate]] = {
    "DDIMScheduler": _returned,
    "DDPMScheduler": _returned,
    "EulerDiscreteScheduler": _returned,
    "EulerAncestralDiscreteScheduler": _returned,
    "LCMScheduler": _returned,
    "DPMSolverMultistepScheduler": _stored_by_dpm_solver,
    "UniPCMultistepScheduler": _stored_by_unipc,
    "FlowMatchEulerDiscreteScheduler": _straight_flow,
    "PNDMScheduler": _variance_preserving,
}


def supported_schedulers() -> tuple[str, ...]:
    """Class names of the schedulers whose x0 estimate is known, sorted."""
    return tuple(sorted(_RULES))


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise UnsupportedPipelineError unless x0 can be had from this scheduler's class."""
    _rule_of(scheduler)


def original_sample_estimate(step: SchedulerStep) -> Estimate:
    """A function that returns x0 of a step: float32 `(rows, ...)`, in latent space.

    Call this right after the step; the returned function may be called later, and raises
    UnsupportedPipelineError where the scheduler has no known x0.

    Source: DDPM (Ho et al. 2020, eq. 15), progressive distillation (Salimans and Ho 2022, appendix
    D: v prediction), rectified flow (Liu et al. 2022).
    """
    try:
        rule = _rule_of(step.scheduler)
    except UnsupportedPipelineError as error:
        return _raising(error)
    return rule(step)


def sigma_of(step: SchedulerStep) -> Callable[[], float]:
    """A function that returns the noise level of a step's input, falling to 0 over a run.

    Schedulers with a table of sigmas: its entry. Those with `alphas_cumprod` alone (DDIM, DDPM,
    PNDM, LCM): the ratio of noise to signal, sqrt((1 - a) / a), the same scale as Euler's.
    """
    scheduler = step.scheduler
    if getattr(scheduler, "step_index", None) is not None and hasattr(scheduler, "sigmas"):
        sigma = scheduler.sigmas[scheduler.step_index - 1]
        return lambda: float(sigma)

    def ratio() -> float:
        alpha = float(scheduler.alphas_cumprod[int(step.timestep)])
        return float(((1 - alpha) / alpha) ** 0.5)

    return ratio


def is_flow(scheduler: Scheduler) -> bool:
    """Whether sigmas are those of x = (1 - sigma) x0 + sigma e rather than x = x0 + sigma e."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def _rule_of(scheduler: Scheduler) -> Callable[[SchedulerStep], Estimate]:
    for cls in type(scheduler).__mro__:
        if cls.__name__ in _RULES:
            return _RULES[cls.__name__]
    raise UnsupportedPipelineError(
        f"Scheduler {type(scheduler).__name__} gives no x0 estimate that is known here. Use one of "
        f"{', '.join(supported_schedulers())}: {euler_advice(type(scheduler).__name__)}."
    )


def euler_advice(scheduler: str) -> str:
    """How to put the plain solver of its kind in the place of a scheduler of this class name."""
    is_flow = scheduler.startswith("FlowMatch")
    name = "FlowMatchEulerDiscreteScheduler" if is_flow else "EulerDiscreteScheduler"
    return f"`pipe.scheduler = {name}.from_config(pipe.scheduler.config)`"


def _refusal(given: str, wanted: str) -> Estimate:
    return _raising(
        UnsupportedPipelineError(
            f"The scheduler runs with {given} and so holds no x0 estimate; build it with {wanted}."
        )
    )


def _raising(error: UnsupportedPipelineError) -> Estimate:
    def refuse() -> torch.Tensor:
        raise error

    return refuse
