"""Where a solver's random steps come from: which solvers take them, and which are of use here."""

from __future__ import annotations

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.prediction import is_flow
from gensift.errors import UnsupportedPipelineError
from gensift.protocols import CallArguments, Scheduler
from samplers.diffusion.config import Sde

# Families whose pipelines call `scheduler.step` without passing on the generators.
_WITHOUT_STEP_GENERATOR = ("sd3", "flux", "qwen-image", "z-image", "wan", "dit")
_STOCHASTIC_SCHEDULERS = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
)
_FLOW_EULER = "FlowMatchEulerDiscreteScheduler"


def is_stochastic(scheduler: Scheduler, arguments: CallArguments | None = None) -> bool:
    """Whether steps of `scheduler` draw noise in a pipeline call with these arguments."""
    arguments = arguments or {}
    name, config = type(scheduler).__name__, scheduler.config
    return bool(
        name in _STOCHASTIC_SCHEDULERS
        or config.get("stochastic_sampling")
        or str(config.get("algorithm_type")).startswith("sde-")
        or (name == "DDIMScheduler" and (arguments.get("eta") or 0.0) > 0)
    )


def refuse_shared_noise(bound: BoundPipeline, arguments: CallArguments) -> None:
    """Refuse solvers whose noise would not come from the candidates' own generators.

    Raises:
        UnsupportedPipelineError: the solver draws noise and the pipeline gives it no generators.
    """
    scheduler = bound.scheduler
    if is_stochastic(scheduler, arguments) and bound.family.name in _WITHOUT_STEP_GENERATOR:
        raise UnsupportedPipelineError(
            f"{bound.class_name} gives its scheduler no generator, so with the stochastic "
            f"{type(scheduler).__name__} a winner could not be reproduced from its seed. Use "
            "a deterministic scheduler: stochastic_sampling=False, or algorithm_type without 'sde'."
        )


def wants_flow_sde(scheduler: Scheduler, arguments: CallArguments, sde: Sde) -> bool:
    """Whether noise must be added to the steps of the pipeline's solver for copies to part.

    Raises:
        UnsupportedPipelineError: the solver is deterministic and no noise can or may be added.
    """
    takes_noise = _takes_flow_noise(scheduler)
    if sde == "flow" and not takes_noise:
        raise UnsupportedPipelineError(
            f"`sde=flow` adds noise to the steps of {_FLOW_EULER}, but the solver is "
            f"{_described(scheduler)}. {_advice(scheduler)}"
        )
    if sde != "none" and takes_noise:
        return True
    if not is_stochastic(scheduler, arguments):
        raise UnsupportedPipelineError(
            f"{_described(scheduler)} is deterministic, so copies of a candidate would stay alike "
            f"for good. {_advice(scheduler)}"
        )
    return False


def _takes_flow_noise(scheduler: Scheduler) -> bool:
    config = scheduler.config
    return _FLOW_EULER in {cls.__name__ for cls in type(scheduler).__mro__} and not (
        config.get("stochastic_sampling") or config.get("invert_sigmas")
    )


def _described(scheduler: Scheduler) -> str:
    algorithm = scheduler.config.get("algorithm_type")
    detail = f" (algorithm_type={algorithm!r})" if algorithm else ""
    return f"{type(scheduler).__name__}{detail}"


def _advice(scheduler: Scheduler) -> str:
    if _takes_flow_noise(scheduler):
        return "Set `sde` to auto or flow."
    if is_flow(scheduler):
        return (
            "Choose the solver that `sde` can add noise to: pipe.scheduler = "
            f"{_FLOW_EULER}.from_config(pipe.scheduler.config, stochastic_sampling=False)."
        )
    return (
        "Choose a stochastic solver: pipe.scheduler = "
        "EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config), or `--scheduler "
        "EulerAncestralDiscreteScheduler`; or DDIMScheduler with eta=1.0 in the call "
        "(`--call eta=1.0`)."
    )
