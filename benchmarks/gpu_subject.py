"""What `benchmarks.gpu` measures, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import gensift
from gensift.denoising.modules import denoisers_of
from gensift.pipelines.next_scale.pipeline import NextScalePipeline
from gensift.randomness import make_generators
from samplers.diffusion.guidance import guidance_rows
from samplers.diffusion.schedule import PruningSchedule
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import CLEAN_SCHEDULE, NOISE_AWARE_SCHEDULE

PROMPT = "a red circle left of a blue square"
SCHEDULES = {
    "best-of-n": PruningSchedule(),
    "ttsnap, clean schedule": CLEAN_SCHEDULE,
    "ttsnap, noise-aware schedule": NOISE_AWARE_SCHEDULE,
}
SHORT_STEPS = 4
"""Steps where only the time of a denoiser row matters."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A pipeline to measure.

    Attributes:
        name: short name.
        pipe: the diffusers pipeline.
        reward: what scores; None for videos.
        preview_decoder: folder of the tiny decoder of early estimates; "vae" where there is none.
        arguments: of the pipeline call.
        device: where it runs.
    """

    name: str
    pipe: Any
    reward: Any
    preview_decoder: str
    arguments: dict[str, Any]
    device: str

    @property
    def steps(self) -> int:
        """Denoising steps of a whole run."""
        return int(self.arguments["num_inference_steps"])

    @property
    def rows(self) -> int:
        """Denoiser rows per candidate and step."""
        return guidance_rows(self.pipe, self.arguments)

    @property
    def is_video(self) -> bool:
        """Whether the pipeline makes videos."""
        return "num_frames" in self.arguments

    @property
    def is_next_scale(self) -> bool:
        """Whether the pipeline draws scale by scale, without denoising steps."""
        return isinstance(self.pipe, NextScalePipeline)

    @property
    def denoiser(self) -> Any:
        """The UNet or transformer."""
        return denoisers_of(self.pipe)[0]

    def search(self, name: str, num_candidates: int) -> DiffusionSearch:
        """A search by the schedule `name`."""
        sampler: DiffusionSearch = gensift.BestOfN(self.reward, num_candidates=num_candidates)
        if not SCHEDULES[name].fractions:
            return sampler
        sampler = gensift.TTSnap(
            self.reward,
            num_candidates=num_candidates,
            checkpoints=SCHEDULES[name].fractions,
            keep=SCHEDULES[name].keep,
            preview_decoder=self.preview_decoder,
        )
        return sampler

    def plain(self, seeds: list[int], **overrides: Any) -> torch.Tensor:
        """Latents of the pipeline alone, one seed per row."""
        count_argument = "num_videos_per_prompt" if self.is_video else "num_images_per_prompt"
        arguments = self.arguments | {"output_type": "latent", count_argument: len(seeds)}
        latents: torch.Tensor = self.pipe(
            PROMPT,
            generator=make_generators(seeds),
            return_dict=False,
            **(arguments | overrides),
        )[0]
        return latents

    def keep_all(self, count: int, max_rows: int | None = None, **overrides: Any) -> Any:
        """TTSnap with rewards off: all the machinery, nothing pruned, latents only."""
        arguments = self.arguments | {"output_type": "latent"} | overrides
        sampler = gensift.TTSnap(
            None, num_candidates=count, max_rows=max_rows, preview_decoder="vae"
        )
        return sampler(self.pipe, PROMPT, **arguments)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: repetitions of each alternative.
        budget: N of the best-of-N whose cost all searches may spend.
        candidates: in the sections about the row gate, micro-batches and survivors.
    """

    rounds: int = 3
    budget: int = 10
    candidates: int = 16
