"""How far cached runs end from uncached ones, and how much faster they are."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from caches.cache import Cache
from caches.fingerprint import guidance_scale_of
from caches.options import Prompts
from gensift.pipelines.loading import call_defaults
from gensift.protocols import CallArguments, Pipeline
from gensift.randomness import candidate_seed, make_generators


def now() -> float:
    """Seconds on a clock, once GPUs have finished what they were given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Outcome:
    """What a pipeline made of some prompts.

    Attributes:
        latents: float32 `(prompts, ...)`, as the pipeline would decode them.
        seconds: wall time of the denoising, all prompts together.
    """

    latents: Tensor
    seconds: float

    def error_of(self, other: Outcome) -> float:
        """Mean over prompts of the L2 distance of `other` to this, relative to its own size."""
        distance = (other.latents - self.latents).flatten(1).norm(dim=1)
        return float((distance / self.latents.flatten(1).norm(dim=1)).mean())


@dataclass(frozen=True)
class Denoising:
    """Runs of a pipeline on prompts, each with a seed of its own, up to the last latents.

    Prompts are what the first argument of the pipeline's call takes a list of: texts mostly,
    observations for a policy.

    Attributes:
        pipe: a diffusers pipeline.
        arguments: of its call, such as `num_inference_steps`.
        batch_prompts: prompts per call.
        seed: base of the seeds.
    """

    pipe: Pipeline
    arguments: CallArguments
    batch_prompts: int = 4
    seed: int = 0

    @property
    def guidance_scale(self) -> float | None:
        """Strength of guidance of the runs made so far."""
        return guidance_scale_of(self.pipe)

    def run(
        self,
        prompts: Prompts,
        cache: Cache | None = None,
        *,
        on_batch: Callable[[int, int], None] = lambda first, count: None,
    ) -> Outcome:
        """Denoise `prompts`, with `cache` attached meanwhile if there is one.

        Args:
            prompts: what to draw.
            cache: put on for these runs; taken off again whatever happens.
            on_batch: told before each call of the number of its first prompt, and how many.
        """
        if cache is not None:
            cache.attach(self.pipe)
        try:
            return self._run(prompts, on_batch)
        finally:
            if cache is not None:
                cache.detach()

    def compare(self, prompts: Prompts, cache: Cache) -> tuple[float, float]:
        """Error of cached runs, and the speed-up: batch by batch, so that both see one machine."""
        errors, speedups = [], []
        for first in range(0, len(prompts), self.batch_prompts):
            part = replace(self, seed=self.seed + first)
            texts = prompts[first : first + self.batch_prompts]
            uncached, cached = part.run(texts), part.run(texts, cache)
            errors.append(uncached.error_of(cached) * len(texts))
            speedups.append(uncached.seconds / cached.seconds)
        return sum(errors) / len(prompts), statistics.median(speedups)

    def _run(self, prompts: Prompts, on_batch: Callable[[int, int], None]) -> Outcome:
        parts: list[Tensor] = []
        start = now()
        for first in range(0, len(prompts), self.batch_prompts):
            texts = list(prompts[first : first + self.batch_prompts])
            on_batch(first, len(texts))
            parts.append(self._latents(texts, first))
        return Outcome(torch.cat(parts).float().cpu(), now() - start)

    @property
    def _what_to_draw(self) -> str:
        """Argument of the pipeline's call that prompts are for: the first, whatever its name."""
        return next(iter(inspect.signature(self.pipe.__call__).parameters))

    def _latents(self, prompts: list[object], first: int) -> Tensor:
        seeds = [candidate_seed(self.seed, first + i, 0) for i in range(len(prompts))]
        arguments = call_defaults(self.pipe) | dict(self.arguments) | {"output_type": "latent"}
        with torch.no_grad():
            given = {self._what_to_draw: prompts, "generator": make_generators(seeds)}
            output = self.pipe(**given, **arguments)
        latents = output[0] if isinstance(output, tuple) else next(iter(output.values()))
        return latents if isinstance(latents, Tensor) else torch.stack(list(latents))
