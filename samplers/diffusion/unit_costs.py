"""Measuring what a denoising step and a scoring cost, on this pipeline and this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from gensift.errors import ConfigError
from gensift.protocols import PipelineOutput
from gensift.randomness import candidate_seeds, make_generators
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.preview import Previewer
from samplers.diffusion.schedule import UnitCosts
from samplers.scoring import RewardSpec, Scorer

Meter = Callable[[Callable[[], PipelineOutput]], tuple[PipelineOutput, float]]
_ROWS = 4
_SHORT, _LONG = 2, 5


def measure_unit_costs(
    call: PipelineCall,
    reward: RewardSpec,
    unit: Literal["flops", "seconds"],
    preview_decoder: torch.nn.Module | None = None,
) -> UnitCosts:
    """Run a few steps of a few candidates and read off the marginal cost of each part.

    The step price is the difference between a longer and a shorter run, so what a call costs once
    (prompt encoding, the last decode) cancels out. Costs about 30 candidate steps and 8 scorings.

    Args:
        call: the pipeline call to measure.
        reward: what judges.
        unit: what to count.
        preview_decoder: tiny decoder of early estimates, or None for the pipeline's own VAE.
    """
    meter = _count_flops if unit == "flops" else _time
    seeds = candidate_seeds(0, 0, _ROWS)
    probe = {call.count_argument: _ROWS, "output_type": "latent", "prompt": call.prompts[0]}

    def run(steps: int) -> PipelineOutput:
        # Some pipelines take the schedule as a list; a probe only needs its length.
        arguments = call.arguments | probe | {"num_inference_steps": steps}
        arguments |= {name: None for name in ("timesteps", "sigmas") if name in arguments}
        # The probe has one prompt.
        arguments |= {
            name: value[0]
            for name, value in arguments.items()
            if name.startswith(("prompt", "negative_prompt")) and isinstance(value, list)
        }
        arguments["generator"] = make_generators(seeds)
        with torch.no_grad():
            output = replace(call, arguments=arguments).run()
        return output[0] if isinstance(output, tuple) else next(iter(output.values()))

    run(_SHORT)  # warm-up: first calls allocate and choose kernels
    _, short = meter(lambda: run(_SHORT))
    # Solvers of higher order call the denoiser more often than they are asked for steps.
    few = len(call.bound.scheduler.timesteps)
    latents, long = meter(lambda: run(_LONG))
    step = (long - short) / ((len(call.bound.scheduler.timesteps) - few) * _ROWS)
    if step <= 0:
        raise ConfigError(
            f"A budget in {unit} cannot be measured here: {_LONG} steps took no longer than "
            f"{_SHORT}. Give it in nfe."
        )
    scoring = _scoring_cost(call, reward, latents, meter, None)
    if preview_decoder is None:
        return UnitCosts(step=step, scoring=scoring)
    preview = _scoring_cost(call, reward, latents, meter, preview_decoder)
    return UnitCosts(step=step, scoring=scoring, preview=preview)


def _scoring_cost(
    call: PipelineCall,
    reward: RewardSpec,
    latents: torch.Tensor,
    meter: Meter,
    decoder: torch.nn.Module | None,
) -> float:
    scorer = Scorer(reward)
    if not scorer.names:
        return 0.0
    previewer = Previewer(call.bound, *call.size, decoder=decoder)

    def score() -> PipelineOutput:
        return scorer.score(previewer, latents, [call.prompts[0]] * len(latents), None)

    score()
    return meter(score)[1] / len(latents)


def _time(run: Callable[[], PipelineOutput]) -> tuple[PipelineOutput, float]:
    _finish_gpu_work()
    start = time.perf_counter()
    result = run()
    _finish_gpu_work()
    return result, time.perf_counter() - start


def _finish_gpu_work() -> None:
    for device in range(torch.cuda.device_count()):
        torch.cuda.synchronize(device)


def _count_flops(run: Callable[[], PipelineOutput]) -> tuple[PipelineOutput, float]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, float(counter.get_total_flops())
