"""Random steps for flow models: noise that the solver's ODE knows nothing of, marginals unchanged.

Time is sigma, falling from 1 (noise) to 0, and the velocity v is noise minus data. Any g(sigma)
gives an SDE with the marginals of the ODE:

    dx = (v - g^2 / 2 score) dt + g dw,    score = -(x + (1 - sigma) v) / sigma,

as x = (1 - sigma) x0 + sigma e and v = e - x0 make x + (1 - sigma) v the expected noise.

Source: Song et al., arXiv 2011.13456, section 4.3 (marginals); used on flow models in
arXiv 2503.19385 (g = 3 sigma^2) and arXiv 2505.05470 (g ~ sqrt(sigma / (1 - sigma))). Here
g = scale * sigma, which is bounded everywhere and vanishes with the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.protocols import Scheduler
from gensift.randomness import derived_seed, make_generators


def add_flow_noise(
    stepped: Tensor,
    sample: Tensor,
    velocity: Tensor,
    noise: Tensor,
    *,
    sigma: float,
    next_sigma: float,
    scale: float,
) -> Tensor:
    """What the Euler-Maruyama step of the SDE makes of the same step of the ODE.

    Args:
        stepped: latents after the Euler step of the ODE, sample + (next_sigma - sigma) velocity,
            `(rows, ...)`; returned as they are for `scale` 0.
        sample: latents before the step.
        velocity: guided network output, noise minus data.
        noise: standard normal, like `sample`.
        sigma: noise level before the step, in (0, 1].
        next_sigma: noise level after it, below `sigma`.
        scale: g / sigma.

    Returns:
        Latents of the dtype of `stepped`; computed in float32, or wider if `sample` is.
    """
    dtype = torch.promote_types(sample.dtype, torch.float32)
    dt, g = next_sigma - sigma, scale * sigma
    score = -(sample.to(dtype) + (1 - sigma) * velocity.to(dtype)) / sigma
    change = -(g**2) / 2 * score * dt + g * math.sqrt(-dt) * noise.to(dtype)
    return (stepped.to(dtype) + change).to(stepped.dtype)


@contextmanager
def flow_sde(scheduler: Scheduler, seeds: Sequence[int], scale: float) -> Iterator[None]:
    """Make the steps of a `FlowMatchEulerDiscreteScheduler` those of the SDE, for one call.

    Row `i` draws from a stream of its own, derived from `seeds[i]` and apart from the draw of its
    first latents, so its noise depends on nothing else. The last step, down to sigma 0, stays the
    solver's own: noise added there would be seen in the picture.

    Args:
        scheduler: whose `step` is to be changed; as before on exit.
        seeds: of the rows.
        scale: g / sigma; 0 leaves the ODE, bit for bit.
    """
    generators = make_generators([derived_seed([seed], "flow-sde") for seed in seeds])

    def on_step(event: StepEvent) -> Tensor | None:
        # The index is that of the next step by now.
        now, after = scheduler.sigmas[scheduler.step_index - 1 : scheduler.step_index + 1].tolist()
        if after == 0:
            return None
        noise = [torch.randn(event.sample.shape[1:], generator=g) for g in generators]
        return add_flow_noise(
            event.latents,
            event.sample,
            event.model_output,
            torch.stack(noise).to(event.sample.device),
            sigma=now,
            next_sigma=after,
            scale=scale,
        )

    with observe_scheduler(scheduler, on_step):
        yield
