"""Initial noises: what a pipeline draws from seeds, and neighbours of a noise on its sphere."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import Pipeline
from gensift.randomness import make_generators
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.stochastic import is_stochastic


class _Drawn(Exception):
    """Carries the first latents out of a pipeline call that goes no further."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents


def initial_noise(call: PipelineCall) -> Tensor:
    """The noise that a pipeline call starts from; its denoiser does not run.

    Given as `latents`, the rows make the pipeline start from the same place, up to rounding where
    its scheduler scales them (SDXL with Euler).

    Args:
        call: a call whose generators are set; fresh ones of the same seeds are drawn from.

    Returns:
        `(rows, ...)` in the pipeline's own layout (packed for FLUX), before any scaling.

    Raises:
        UnsupportedPipelineError: the pipeline takes no `latents`, or draws them elsewhere.
    """
    pipe = call.pipe
    if "latents" not in call.arguments or not hasattr(pipe, "prepare_latents"):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} takes no `latents`, so no noise can be handed to it; search "
            "with best-of-n or ttsnap."
        )
    generators = [
        torch.Generator(generator.device).manual_seed(generator.initial_seed())
        for generator in call.arguments["generator"]
    ]
    fresh = call.drawing_from(generators, len(generators) // len(call.prompts))
    latents = _first_latents(fresh)
    # Some pipelines scale what they draw, and would scale given latents again.
    scale = float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))
    return latents if scale == 1.0 else latents / scale


@torch.no_grad()
def _first_latents(call: PipelineCall) -> Tensor:
    pipe: Pipeline = call.pipe
    prepare = pipe.prepare_latents

    @functools.wraps(prepare)
    def stop_after(*args: object, **kwargs: Any) -> None:
        prepared = prepare(*args, **kwargs)
        raise _Drawn(prepared[0] if isinstance(prepared, tuple) else prepared)

    own = vars(pipe).get("prepare_latents")
    vars(pipe)["prepare_latents"] = stop_after
    try:
        call.run()
    except _Drawn as drawn:
        return drawn.latents
    finally:
        del vars(pipe)["prepare_latents"]
        if own is not None:
            vars(pipe)["prepare_latents"] = own
        # A pipeline that was cut short has not come to this last line of its own.
        pipe.maybe_free_model_hooks()
    raise UnsupportedPipelineError(
        f"{type(pipe).__name__} draws its noise elsewhere than in prepare_latents; search with "
        "best-of-n or ttsnap."
    )


def neighbour(pivot: Tensor, direction: Tensor, similarity: float) -> Tensor:
    """The point of the pivot's sphere at cosine `similarity` to it, towards `direction`.

    |z| (c u + sqrt(1 - c^2) w), with u = z / |z| and w the unit vector of what is orthogonal to u
    in `direction`. Computed in float64.

    Args:
        pivot: one noise z, `(channels, ...)`, any float dtype.
        direction: Gaussian noise of the same shape.
        similarity: the cosine c, in [-1, 1].

    Source: Ma et al., arXiv 2501.09732, in the sphere form of its public implementations.
    """
    z, noise = pivot.double().flatten(), direction.to(pivot.device).double().flatten()
    u = z / z.norm()
    w = noise - (noise @ u) * u
    w = w / w.norm()
    point: Tensor = z.norm() * (similarity * u + math.sqrt(1 - similarity**2) * w)
    return point.to(pivot.dtype).reshape(pivot.shape)


def gaussian(shape: Sequence[int], seed: int) -> Tensor:
    """Standard Gaussian noise of `shape`, such as `(4, 8, 8)`: float32, the same everywhere."""
    (generator,) = make_generators([seed])
    return torch.randn(tuple(shape), generator=generator)


def refined(noise: Tensor, seeds: Iterable[int], similarity: float) -> Tensor:
    """The noise reached from `noise` `(channels, ...)` by one step per seed, in order."""
    for seed in seeds:
        noise = neighbour(noise, gaussian(noise.shape, seed), similarity)
    return noise


def check_noise_decides(call: PipelineCall) -> None:
    """Refuse calls whose picture depends on more than the initial noise.

    Raises:
        UnsupportedPipelineError: the solver adds noise of its own in every step.
        ConfigError: the prompt is given as embeddings, one per candidate of the first round.
    """
    scheduler = call.bound.scheduler
    if is_stochastic(scheduler, call.arguments):
        raise UnsupportedPipelineError(
            f"{type(scheduler).__name__} with eta={call.arguments.get('eta', 0)} adds fresh noise "
            "in its steps, so near noises do not give near pictures. Use a deterministic solver, "
            "such as DDIM with eta=0, Euler or DPM++."
        )
    if call.arguments.get("prompt") is None:
        raise ConfigError(
            "The prompt was given as `prompt_embeds`; this search changes the number of candidates "
            "between its rounds, so give it as text."
        )
