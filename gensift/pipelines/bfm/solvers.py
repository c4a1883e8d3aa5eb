"""One step of each solver."""

from __future__ import annotations

import math
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gensift.pipelines.bfm.guided import GuidedVelocity
from gensift.pipelines.bfm.schedule import ScheduleStep


def euler_velocity(flow: GuidedVelocity, latents: Tensor, step: ScheduleStep) -> Tensor:
    """The velocity that a step follows from its start."""
    return flow.at_start(latents, step)


def heun_velocity(flow: GuidedVelocity, latents: Tensor, step: ScheduleStep) -> Tensor:
    """The mean of the velocities at both ends of a step.

    The end is evaluated by the step's own stack, also where the next segment starts: a stack of
    another segment would mix two fields in one step.
    """
    first = flow.at_start(latents, step)
    second = flow.at_end(latents + (step.sigma_next - step.sigma) * first, step)
    return (first + second) / 2


def stochastic_step(
    velocity: Tensor, latents: Tensor, step: ScheduleStep, generator: Any
) -> Tensor:
    """Euler-Maruyama with diffusion g^2 = 2 sigma; a step that ends at the data is deterministic.

    `latents` and `velocity` are `(rows, ...)`, `generator` one per row, or one for all.

    Source: the released sampler, but for its last interval, which it integrates twice.
    """
    sigma, change = step.sigma, step.sigma_next - step.sigma
    if step.is_last:
        return latents + change * velocity
    # E[noise | x] = x + (1 - sigma) v on the straight path, and the score is minus that over sigma.
    score = -(latents + (1 - sigma) * velocity) / sigma
    drift = velocity - sigma * score
    noise: Tensor = randn_tensor(
        latents.shape, generator=generator, device=latents.device, dtype=latents.dtype
    )
    return latents + change * drift + math.sqrt(2 * sigma * -change) * noise
