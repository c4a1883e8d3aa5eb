"""x0 against data whose exact denoiser is known: a Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from helpers.gated_runs import SEEDS, plain_images
from helpers.tiny_pipelines import FAMILIES, build
from helpers.tiny_schedulers import SCHEDULERS, VP

from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.denoising.prediction import check_scheduler, supported_schedulers
from gensift.errors import UnsupportedPipelineError

MEAN, STD = 0.7, 0.5
NUM_STEPS = 8

Scheduler = Any
CASES: dict[str, Callable[[], Scheduler]] = {
    **{k: make for k, make in SCHEDULERS.items() if k != "heun" and not k.endswith("-mu")},
    "ddim-v": lambda: diffusers.DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", **VP
    ),
    "pndm-v": lambda: diffusers.PNDMScheduler(
        skip_prk_steps=True, prediction_type="v_prediction", **VP
    ),
    "euler-v": lambda: diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", **VP),
    "dpm++-v": lambda: diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", **VP),
    "unipc-v": lambda: diffusers.UniPCMultistepScheduler(prediction_type="v_prediction", **VP),
}


def signal_and_noise(scheduler: Scheduler, index: int, timestep: Any) -> tuple[Any, Any, Any]:
    """Coefficients of x = alpha x0 + sigma e, and the factor by which x is off that scale."""
    name = type(scheduler).__name__
    if name.startswith(("DDIM", "DDPM", "PNDM", "LCM")):
        alpha_bar = scheduler.alphas_cumprod[int(timestep)].double()
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), 1.0
    sigma = scheduler.sigmas[index].double()
    if "Flow" in name or scheduler.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma, 1.0
    scale = (sigma**2 + 1).sqrt()
    # Euler keeps x0 at full size: x = x0 + sigma e.
    return 1 / scale, sigma / scale, scale if name.startswith("Euler") else 1.0


def exact_model(scheduler: Scheduler, x: torch.Tensor, index: int, timestep: Any) -> Any:
    """The ideal network output for N(MEAN, STD^2) data, and the posterior mean E[x0 | x]."""
    alpha, sigma, scale = signal_and_noise(scheduler, index, timestep)
    x = x.double() / scale
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    x0 = MEAN + gain * (x - alpha * MEAN)
    noise = (x - alpha * x0) / sigma
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    output = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x0,
        "flow_prediction": noise - x0,
    }[kind]
    return output.float(), x0.float()


@pytest.mark.parametrize("name", CASES)
def test_estimate_is_the_posterior_mean_of_gaussian_data(name: str) -> None:
    scheduler = CASES[name]()
    scheduler.set_timesteps(NUM_STEPS)
    events: list[StepEvent] = []
    expected: list[torch.Tensor] = []
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    with observe_scheduler(scheduler, events.append):
        for index, timestep in enumerate(scheduler.timesteps):
            output, x0 = exact_model(scheduler, x, index, timestep)
            x = scheduler.step(output, timestep, x, return_dict=False)[0]
            expected.append(x0)
    # Read only now: an event must not change with the scheduler's later steps. Where alpha is
    # small, float32 loses digits to the division by it.
    for event, x0 in zip(events, expected, strict=True):
        assert event.pred_original_sample.dtype == torch.float32
        torch.testing.assert_close(event.pred_original_sample, x0, rtol=1e-3, atol=1e-4)
    sigmas = [event.sigma for event in events]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-1] > 0


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "sd15"])
def test_last_estimate_is_the_final_latents(family: str) -> None:
    pipe, call_kwargs = build(family)
    events: list[StepEvent] = []
    with observe_scheduler(pipe.scheduler, events.append):
        plain_images(pipe, call_kwargs(SEEDS[:2]))
    assert torch.equal(events[-1].pred_original_sample, events[-1].latents)


def test_straight_flow_is_exact_from_the_first_step() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    scheduler.set_timesteps(NUM_STEPS)
    data, noise = torch.randn(2, 3, 4, 8, 8).unbind()
    x = noise
    events: list[StepEvent] = []
    with observe_scheduler(scheduler, events.append):
        for timestep in scheduler.timesteps:
            x = scheduler.step(noise - data, timestep, x).prev_sample
    for event in events:
        torch.testing.assert_close(event.pred_original_sample, data)
    torch.testing.assert_close(x, data)


def test_estimate_is_float32_for_half_precision_latents() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    scheduler.set_timesteps(2)
    events: list[StepEvent] = []
    x = torch.ones(1, 4, 8, 8, dtype=torch.bfloat16)
    with observe_scheduler(scheduler, events.append):
        scheduler.step(x * 0.3, scheduler.timesteps[0], x)
    assert events[0].pred_original_sample.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (diffusers.HeunDiscreteScheduler, "HeunDiscreteScheduler.*EulerDiscreteScheduler"),
        (diffusers.TCDScheduler, "TCDScheduler gives no x0"),
    ],
)
def test_unsupported_scheduler_is_named_with_the_supported(make: Any, message: str) -> None:
    scheduler = make()
    with pytest.raises(UnsupportedPipelineError, match=message):
        check_scheduler(scheduler)
    scheduler.set_timesteps(4)
    events: list[StepEvent] = []
    x = torch.ones(1, 4, 8, 8)
    with observe_scheduler(scheduler, events.append):
        scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(UnsupportedPipelineError, match=message):
        events[0].pred_original_sample  # noqa: B018


@pytest.mark.parametrize(
    ("scheduler", "wanted"),
    [
        (
            diffusers.DPMSolverMultistepScheduler(
                algorithm_type="dpmsolver", final_sigmas_type="sigma_min"
            ),
            r"dpmsolver\+\+",
        ),
        (diffusers.UniPCMultistepScheduler(predict_x0=False), "predict_x0=True"),
    ],
)
def test_solvers_of_the_noise_prediction_are_refused(scheduler: Any, wanted: str) -> None:
    scheduler.set_timesteps(4)
    events: list[StepEvent] = []
    x = torch.ones(1, 4, 8, 8)
    with observe_scheduler(scheduler, events.append):
        scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(UnsupportedPipelineError, match=wanted):
        events[0].pred_original_sample  # noqa: B018


def test_every_rule_belongs_to_a_diffusers_class() -> None:
    for name in supported_schedulers():
        check_scheduler(getattr(diffusers, name)())
