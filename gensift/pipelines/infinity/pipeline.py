"""The pipeline of Infinity: a prompt to pictures, scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import ImagePipelineOutput
from diffusers.utils import logging
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.infinity.schedules import SIZES, ratios, schedule_for
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.pipelines.next_scale.arguments import (
    check_output_type,
    number_within,
    per_scale,
    rows_of_prompts,
)
from gensift.pipelines.next_scale.pipeline import (
    NextScalePipeline,
    NextScaleState,
    Pictures,
    SamplingOptions,
)
from gensift.pipelines.next_scale.sampling import Generators, RowStreams, draw_bits
from gensift.pipelines.next_scale.scales import ScaleSchedule

LOWEST_TEMPERATURE = 1e-3
logger = logging.get_logger(__name__)


class InfinityPipeline(NextScalePipeline):
    """Text to picture with Infinity (arXiv 2412.04431).

    Args:
        transformer: predicts bits.
        vae: the bitwise tokenizer.
        text_encoder, tokenizer: T5's encoder and its text tokenizer; a folder may come without, and
            a pipeline without them draws nothing.
        scales: the only schedule of the model; None for those of the released models, which
            `height` and `width` choose from.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]

    transformer: InfinityTransformer
    vae: InfinityTokenizer

    def __init__(
        self,
        transformer: InfinityTransformer,
        vae: InfinityTokenizer,
        text_encoder: Any,
        tokenizer: Any,
        scales: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.register_to_config(scales=scales)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | Sequence[float] = 3.0,
        temperature: float | Sequence[float] = 0.5,
        top_p: float = 0.97,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        max_rows: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Pictures]:
        """Draw pictures.

        Args:
            prompt: one or several, of any lengths.
            negative_prompt: what to keep away from, one for all or one each; by default the
                model's own learned text of no prompt.
            height, width: of the pictures in pixels; by default the largest square.
            guidance_scale: 1 is without guidance; one number, or one per scale.
            temperature: what logits are divided by; one number, or one per scale.
            top_p: a bit whose rarer value has at most probability 1 - top_p takes the other.
            num_images_per_prompt: pictures of each prompt, which follow each other.
            generator: one per picture, or one for all.
            max_rows: most pictures that go through the transformer together; bounds memory.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to return an `ImagePipelineOutput`, or else a tuple.

        Raises:
            ConfigError: an argument is out of range.
        """
        check_output_type(output_type)
        state = self.start(
            prompt,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_p=top_p,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
        )
        return self._finish(state, output_type, max_rows, return_dict)

    @torch.no_grad()
    def start(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int | Sequence[int] = 1,
        generator: Generators = None,
        capacity: int | None = None,
        **settings: Any,
    ) -> NextScaleState:
        """Rows of which nothing is drawn yet, those of a prompt together.

        `capacity` is the positions that the cache needs room for until rows are gathered; by
        default all. `settings` are those of `settings`; the other arguments are those of the call.

        Raises:
            ConfigError: an argument is out of range.
        """
        schedule, options = self.settings(**settings)
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigError("A prompt is empty; give each picture a text to be drawn from.")
        prompt_of_row = rows_of_prompts(len(texts), num_images_per_prompt)
        hidden = self.encode_text(texts)
        if options.is_guided_from(0):
            hidden = hidden + self._unconditional(hidden, negative_prompt)
        return self._begin(
            schedule=schedule,
            conditions=self.transformer.conditions(hidden),
            prompt_of_row=prompt_of_row,
            streams=RowStreams.of(generator, len(prompt_of_row)),
            options=options,
            capacity=capacity,
        )

    def settings(
        self,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | Sequence[float] = 3.0,
        temperature: float | Sequence[float] = 0.5,
        top_p: float = 0.97,
    ) -> tuple[ScaleSchedule, SamplingOptions]:
        """What a call with these arguments draws, scale by scale, and how.

        Raises:
            ConfigError: an argument is out of range.
        """
        schedule = self.schedule(height, width)
        return schedule, SamplingOptions(
            guidance=per_scale("guidance_scale", guidance_scale, len(schedule)),
            temperature=per_scale("temperature", temperature, len(schedule), LOWEST_TEMPERATURE),
            top_p=number_within("top_p", top_p, 0, 1),
        )

    def schedule(self, height: int | None = None, width: int | None = None) -> ScaleSchedule:
        """The scales of a picture of this size.

        Raises:
            ConfigError: the model draws no such size; names the nearest.
        """
        pixels = self.vae.downscale
        for name, length in (("height", height), ("width", width)):
            if length is not None:
                number_within(name, length, 1)
        if self.config.scales is not None:
            own = ScaleSchedule.of(self.config.scales)
            known = {_pixels(own, pixels): own}
        else:
            found = [schedule_for(size, ratio) for size in SIZES for ratio in ratios()]
            known = {_pixels(schedule, pixels): schedule for schedule in found}
        square = max(size for size in known if size[0] == size[1] or len(known) == 1)
        wanted = (height or width or square[0], width or height or square[1])
        if wanted not in known:
            near = min(
                known, key=lambda size: sum(abs(a - b) for a, b in zip(size, wanted, strict=True))
            )
            raise ConfigError(
                f"This model draws no pictures of {wanted[0]}x{wanted[1]} pixels (height x width); "
                f"the nearest that it draws is {near[0]}x{near[1]}."
            )
        return known[wanted]

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> list[Tensor]:
        """The text encoder's last hidden states, `(length, channels)` each, without padding.

        Raises:
            ConfigError: the pipeline has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ConfigError(
                "This pipeline has no text encoder; give `text_encoder` and `tokenizer` to "
                "`from_pretrained`, or convert the model with --text-encoder."
            )
        longest = self.transformer.config.text_max_length
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        whole = self.tokenizer(list(texts), padding=False, truncation=False).input_ids
        for text, ids in zip(texts, whole, strict=True):
            if len(ids) > longest:
                logger.warning(
                    f"A prompt of {len(ids)} tokens is cut to {longest}: {text[:60]!r} ..."
                )
        device = self._execution_device
        mask = tokens.attention_mask.to(device)
        hidden = self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
        return [row[keep.bool()] for row, keep in zip(hidden, mask, strict=True)]

    def _unconditional(
        self, hidden: Sequence[Tensor], negative: str | Sequence[str] | None
    ) -> list[Tensor]:
        if negative is None:
            lengths = [len(text) for text in hidden]
            found: list[Tensor] = self.transformer.unconditional(lengths)
            return found
        texts = [negative] * len(hidden) if isinstance(negative, str) else list(negative)
        if len(texts) != len(hidden):
            raise ConfigError(
                f"{len(texts)} negative prompts were given for {len(hidden)} prompts; give one for "
                "each, or one for all."
            )
        return self.encode_text(texts)

    def _draw(self, logits: Tensor, state: NextScaleState, part: slice) -> Tensor:
        height, width = state.schedule.scales[state.scale]
        bits = logits.shape[-1] // 2
        uniform = state.streams.uniform((logits.shape[1], bits), part, logits.device)
        drawn = draw_bits(logits, uniform, state.options.top_p)
        return torch.unflatten(drawn.transpose(1, 2), 2, (height, width))


def _pixels(schedule: ScaleSchedule, downscale: int) -> tuple[int, int]:
    height, width = schedule.scales[-1]
    return height * downscale, width * downscale
