"""One step of each solver: the velocity that the scheduler is to follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gensift.pipelines.bfm.guided import GuidedVelocity
from gensift.pipelines.bfm.schedule import ScheduleStep


def euler_velocity(
    flow: GuidedVelocity, latents: Tensor, step: ScheduleStep, generator: Any
) -> Tensor:
    """The velocity where a step starts.

    `latents` and velocity: float32 `(rows, channels, height, width)`.
    """
    return flow.at_start(latents, step)


def heun_velocity(
    flow: GuidedVelocity, latents: Tensor, step: ScheduleStep, generator: Any
) -> Tensor:
    """The mean of the velocities at both ends of a step.

    `latents` and velocity: float32 `(rows, channels, height, width)`. The end is evaluated by
    the step's own stack, also where the next segment starts: a stack of another segment would mix
    two fields in one step.
    """
    first = flow.at_start(latents, step)
    second = flow.at_end(latents + (step.sigma_next - step.sigma) * first, step)
    return (first + second) / 2


def stochastic_velocity(
    flow: GuidedVelocity, latents: Tensor, step: ScheduleStep, generator: Any
) -> Tensor:
    """Euler-Maruyama with diffusion g^2 = 2 sigma, its noise included.

    `latents` and velocity: float32 `(rows, channels, height, width)`. A step that ends at the data
    adds none.

    Source: the released sampler, but for its last interval, which it integrates twice.
    """
    velocity = flow.at_start(latents, step)
    if step.is_last:
        return velocity
    sigma, change = step.sigma, step.sigma_next - step.sigma
    # E[noise | x] = x + (1 - sigma) v on the straight path, and the score is minus that over sigma.
    score = -(latents + (1 - sigma) * velocity) / sigma
    noise: Tensor = randn_tensor(
        latents.shape, generator=generator, device=latents.device, dtype=latents.dtype
    )
    return velocity - sigma * score + math.sqrt(2 * sigma * -change) / change * noise


SOLVERS: Mapping[str, Callable[[GuidedVelocity, Tensor, ScheduleStep, Any], Tensor]] = {
    "euler": euler_velocity,
    "heun": heun_velocity,
    "sde": stochastic_velocity,
}
"""Each takes latents `(rows, ...)` where a step starts, and `generator`: one per row, or one."""
