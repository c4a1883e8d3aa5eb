"""The loop of next-scale pipelines, as single steps that a search can take apart.

`start`, then `step` once per scale, then `decode`; between two steps `gather` keeps, drops and
copies rows, and `decode` shows what a row looks like so far.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.autoencoder import resized
from gensift.pipelines.next_scale.kv_cache import KVCache
from gensift.pipelines.next_scale.sampling import RowStreams
from gensift.pipelines.next_scale.scales import Scale, ScaleSchedule
from gensift.pipelines.next_scale.tokenizer import ScaleTokenizer
from gensift.pipelines.next_scale.transformer import Conditions, NextScaleTransformer

Pictures: TypeAlias = Tensor | NDArray[np.float32] | list[Image.Image]
"""What a call returns: "pt" and "latent", "np", or "pil"."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        guidance: per scale, how far the conditional logits are followed: 1 is without guidance.
        temperature: per scale, what logits are divided by.
        top_k, top_p: as in `gensift.pipelines.next_scale.sampling.filtered`.
        smooth: mix codebook entries by Gumbel-softmax instead of taking one (VAR only).
    """

    guidance: tuple[float, ...]
    temperature: tuple[float, ...]
    top_k: int = 0
    top_p: float = 0.0
    smooth: bool = False

    def is_guided_from(self, scale: int) -> bool:
        """Whether `scale` or a later one needs the unconditional branch."""
        return any(weight != 1 for weight in self.guidance[scale:])


@dataclass(kw_only=True)
class NextScaleState:
    """Rows in the middle of being drawn.

    Attributes:
        schedule: all grids.
        scale: index of the scale that the next step draws.
        prompt_of_row: index of each row's prompt.
        streams: each row's randomness.
        options: how tokens are drawn.
        conditions: those of all prompts, then (with guidance) the unconditional ones.
        num_prompts: prompts.
        cache: keys and values of the scales so far.
        latents: sum of all codes so far, `(rows, channels, H, W)`.
        inputs: what the next step sees, `(rows, channels, h, w)`; None before the first.
        tokens: forwarded so far, those of the unconditional branch included.
    """

    schedule: ScaleSchedule
    scale: int = 0
    prompt_of_row: list[int]
    streams: RowStreams
    options: SamplingOptions
    conditions: Conditions
    num_prompts: int
    cache: KVCache
    latents: Tensor
    inputs: Tensor | None = None
    tokens: int = 0

    @property
    def rows(self) -> int:
        """Pictures being drawn."""
        return len(self.prompt_of_row)

    @property
    def is_finished(self) -> bool:
        """Whether all scales are drawn."""
        return self.scale == len(self.schedule)


class NextScalePipeline(DiffusionPipeline):
    """What the pipelines of VAR and Infinity share.

    A pipeline adds `start`, which reads the conditions and makes the first state, and its call.

    Attributes:
        transformer: predicts logits.
        vae: turns codes into latents (`add`, `next_input`, `latent_size`) and those into pictures.
    """

    transformer: NextScaleTransformer
    vae: ScaleTokenizer

    @abstractmethod
    def _draw(self, logits: Tensor, state: NextScaleState, part: slice) -> Tensor:
        """Codes `(rows, channels, h, w)` of the present scale, drawn from guided logits."""

    def _begin(
        self,
        *,
        schedule: ScaleSchedule,
        conditions: Conditions,
        prompt_of_row: Sequence[int],
        streams: RowStreams,
        options: SamplingOptions,
        capacity: int | None,
    ) -> NextScaleState:
        """The state before the first scale."""
        rows = len(prompt_of_row)
        branches = 2 if options.is_guided_from(0) else 1
        size = self.vae.latent_size(schedule.scales[-1])
        channels = self.vae.config.latent_channels
        device = self._execution_device
        return NextScaleState(
            schedule=schedule,
            prompt_of_row=list(prompt_of_row),
            streams=streams,
            options=options,
            conditions=conditions,
            num_prompts=len(conditions) // branches,
            cache=self.transformer.make_cache(
                branches, rows, capacity or schedule.ends[-1], device
            ),
            latents=torch.zeros(rows, channels, *size, dtype=self.vae.dtype, device=device),
        )

    @torch.no_grad()
    def step(self, state: NextScaleState, max_rows: int | None = None) -> None:
        """Draw the next scale of all rows, at most `max_rows` pictures at a time.

        Raises:
            ConfigError: all scales are drawn already.
        """
        if state.is_finished:
            raise ConfigError("All scales are drawn; start again for more pictures.")
        if state.cache.branches == 2 and not state.options.is_guided_from(state.scale):
            state.cache.drop_branch()
        size = max_rows or state.rows
        parts = [slice(at, min(at + size, state.rows)) for at in range(0, state.rows, size)]
        codes = torch.cat([self._draw(self._logits(state, part), state, part) for part in parts])
        count = state.schedule.token_counts[state.scale]
        state.tokens += count * state.rows * state.cache.branches
        state.cache.advance(count)
        state.latents = self.vae.add(state.latents, codes, state.scale, len(state.schedule))
        state.scale += 1
        if not state.is_finished:
            scale = state.schedule.scales[state.scale]
            state.inputs = self.vae.next_input(state.latents, scale)

    def _logits(self, state: NextScaleState, part: slice) -> Tensor:
        """Guided logits of the rows `part`, `(rows, tokens, num_logits)`."""
        branches = state.cache.branches
        prompts = torch.tensor(state.prompt_of_row[part], device=state.latents.device)
        offsets = torch.arange(branches, device=prompts.device) * state.num_prompts
        inputs = [] if state.inputs is None else [torch.cat([state.inputs[part]] * branches)]
        logits: Tensor = self.transformer(
            inputs,
            state.schedule,
            state.conditions,
            (offsets[:, None] + prompts).flatten(),
            scale_index=state.scale,
            cache=state.cache,
            part=part,
        )
        logits = logits / state.options.temperature[state.scale]
        if branches == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return torch.lerp(unconditional, conditional, state.options.guidance[state.scale])

    def gather(
        self,
        state: NextScaleState,
        rows: Sequence[int],
        fresh_seeds: Sequence[int | None],
        capacity: int | None = None,
    ) -> None:
        """Let row `i` go on as row `rows[i]`.

        Args:
            state: between two steps.
            rows: the parent of each new row; more or fewer than before.
            fresh_seeds: per new row the seed of a stream of its own, or None to go on with its
                parent's. Two rows of one parent must not both go on with its stream.
            capacity: positions that the cache needs room for; by default all.
        """
        state.prompt_of_row = [state.prompt_of_row[row] for row in rows]
        state.streams = state.streams.gather(rows, fresh_seeds)
        index = torch.tensor(rows, device=state.latents.device)
        state.latents = state.latents[index]
        state.inputs = None if state.inputs is None else state.inputs[index]
        state.cache.gather(rows, capacity or state.schedule.ends[-1])

    @torch.no_grad()
    def decode(self, latents: Tensor, *, scale: Scale | None = None) -> Tensor:
        """Pictures float32 in [0, 1], `(rows, 3, height, width)`, of the latents of a state.

        Latents are decodable after every step.

        Args:
            latents: all of a state, or some of their rows.
            scale: token grid to shrink the latents to before they are decoded, which costs less
                and gives smaller pictures; coarse scales hold no fine detail anyway.
        """
        if scale is not None:
            latents = resized(latents, self.vae.latent_size(scale), "bilinear")
        return self.vae.decode(latents)

    def _finish(
        self, state: NextScaleState, output_type: str, max_rows: int | None, return_dict: bool
    ) -> ImagePipelineOutput | tuple[Pictures]:
        """Draw all scales and return what the call returns."""
        for _ in self.progress_bar(range(len(state.schedule))):
            self.step(state, max_rows)
        images: Pictures = state.latents
        if output_type != "latent":
            parts = torch.split(state.latents, max_rows or state.rows)
            decoded = torch.cat([self.decode(part) for part in parts])
            images = convert_pictures(decoded, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def convert_pictures(images: Tensor, output_type: str) -> Pictures:
    """Pictures `(rows, 3, height, width)` in [0, 1] as "pt" (unchanged), "np" or "pil".

    "np" is float `(rows, height, width, 3)`.
    """
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return array
    return [Image.fromarray(picture) for picture in (array * 255).round().astype("uint8")]
