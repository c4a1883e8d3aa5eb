"""A pipeline and what of it a search or a cache works on, looked up once per call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gensift.denoising.families import DenoiserFamily, family_of
from gensift.denoising.modules import denoisers_of, hooks_on
from gensift.pipelines.loading import call_defaults, device_of, load_preview_decoder
from gensift.protocols import CallArguments, Pipeline, Scheduler


class ReuseReport(Protocol):
    """What a cache did so far."""

    @property
    def reused(self) -> int:
        """Evaluations answered, in rows."""
        ...


class RowCache(Protocol):
    """What a search asks of a feature cache that is on its pipeline."""

    @property
    def name(self) -> str:
        """Registered name."""
        ...

    def ensure_attached(self) -> None:
        """Put hooks on again that offloading has dropped."""
        ...

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """Let each row of `sources` go on from what was kept of the row that it maps to."""
        ...

    def report(self) -> ReuseReport:
        """What was computed and reused since the cache was enabled."""
        ...


@dataclass(frozen=True)
class BoundPipeline:
    """A diffusion pipeline, resolved.

    Attributes:
        pipe: the pipeline itself.
        denoisers: its denoisers, out of any torch.compile wrapper; two for two-expert Wan.
        family: of the denoisers: which of their arguments carry one entry per candidate.
        scheduler: that steps the latents.
        cache: the feature cache that is on the denoisers now, or None.
        device: where it runs, also while its parts are offloaded.
    """

    pipe: Pipeline
    denoisers: tuple[torch.nn.Module, ...]
    family: DenoiserFamily
    scheduler: Scheduler
    cache: RowCache | None
    device: torch.device

    @classmethod
    def of(cls, pipe: Pipeline) -> BoundPipeline:
        """Look everything up.

        Raises:
            UnsupportedPipelineError: there is no denoiser, or one whose class is not declared.
        """
        denoisers = tuple(denoisers_of(pipe))
        # A pipeline without one cannot be searched, yet its guidance can be asked about.
        scheduler: Any = getattr(pipe, "scheduler", None)
        return cls(
            pipe=pipe,
            denoisers=denoisers,
            family=family_of(denoisers[0]),
            scheduler=scheduler,
            cache=next((found for module in denoisers if (found := row_cache_on(module))), None),
            device=device_of(pipe),
        )

    @property
    def defaults(self) -> CallArguments:
        """Keyword arguments that the model's folder asks for."""
        return call_defaults(self.pipe)

    @property
    def class_name(self) -> str:
        """Name of the pipeline's class, for messages."""
        return type(self.pipe).__name__

    def preview_decoder(self, spec: str | None) -> torch.nn.Module | None:
        """The tiny decoder of early estimates, or None for the pipeline's own VAE.

        Args:
            spec: see `gensift.pipelines.loading.load_preview_decoder`; None for the VAE.
        """
        if spec is None:
            return None
        decoder: torch.nn.Module | None = load_preview_decoder(self.pipe, spec)
        return decoder


def row_cache_on(module: torch.nn.Module) -> RowCache | None:
    """The cache whose hook is on this denoiser and not switched off, or None."""
    for hook in hooks_on(module):
        cache: RowCache | None = getattr(hook, "cache", None)
        if cache is not None and not getattr(hook, "is_off", True):
            return cache
    return None


def num_steps_of(pipe: Pipeline) -> int:
    """Scheduler calls in the pipeline's current run.

    Pipelines that may stop early or start late (`denoising_end`, `strength`) say so themselves.
    """
    own = getattr(pipe, "num_timesteps", None)
    return int(own) if own is not None else len(pipe.scheduler.timesteps)
