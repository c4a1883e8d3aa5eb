"""Decoding of masked diffusion language models with any combination of policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch

from gensift.config import from_dict
from gensift.cost import Cost
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.prompts import PromptRows
from gensift.pipelines.llada.sampling import steps_of_span
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.pipelines.loading import device_of
from gensift.protocols import CallArguments, Pipeline
from samplers.base import Plan, Request, SamplerBase
from samplers.output import PlannedStage, SamplerOutput
from samplers.scoring import reward_parts
from samplers.text.call import CallRows, ProcessorsOfBatch, TextCall
from samplers.text.config import DecodeOptions, TextDecodeConfig

_ENCODING = ("use_chat_template", "add_generation_prompt")
OptionsT = TypeVar("OptionsT", bound=DecodeOptions)


@dataclass(frozen=True, kw_only=True)
class TextPlan(Plan):
    """What a call is going to do, known before it starts; every text is decoded to the end.

    Its cost is an upper bound: texts that end early, thresholds and caches make it less.

    Attributes:
        gen_length: tokens of each text.
        num_steps: most forward passes of a row.
    """

    gen_length: int
    num_steps: int


class TextSampler(SamplerBase[OptionsT, TextPlan]):
    """What all text samplers share: a call is one decoding with policies of its own choice."""

    modality: ClassVar[str] = "text"
    pipelines: ClassVar[str] = "LLaDA, Dream and other masked diffusion language models"
    default_model: ClassVar[str] = "countdown-llada"
    is_reproducible: ClassVar[bool] = False

    @property
    def is_clean(self) -> bool:
        """Whether confidence is that of the logits before they are processed."""
        return False

    @property
    def num_candidates(self) -> int:
        """Texts per prompt."""
        return self.config.texts_per_prompt

    @property
    def num_outputs(self) -> int:
        """Texts returned per prompt."""
        return self.config.num_outputs or self.num_candidates

    def prepare(self, pipeline: LLaDAPipeline, settings: DecodingSettings) -> ProcessorsOfBatch:
        """What makes the logits processors of every batch of a call; none here."""
        return lambda batch: ()

    def settings(self, pipeline: Pipeline, arguments: CallArguments) -> DecodingSettings:
        """Options of the plain call, out of all `arguments`.

        Raises:
            ConfigError: an argument is unknown or out of range.
        """
        known = {field.name for field in dataclasses.fields(DecodingSettings)}
        given = {
            name: v for name, v in arguments.items() if name not in (*_ENCODING, "output_type")
        }
        strangers = sorted(set(given) - known)
        if strangers:
            raise ConfigError(
                f"`{strangers[0]}` is no argument of text decoding. Known: "
                f"{', '.join(sorted({*known, *_ENCODING}))}."
            )
        return from_dict(DecodingSettings, given)

    def plan_request(self, request: Request) -> TextPlan:
        """What a call would do and cost at most.

        Raises:
            UnsupportedPipelineError: no masked diffusion language model.
            ConfigError: an argument is unknown or out of range.
        """
        pipeline = _supported(request.pipeline)
        settings = self.settings(pipeline, request.arguments)
        length = settings.gen_length
        if request.prompts:
            length += _encode(pipeline, request.prompts, request.arguments).tokens.shape[1]
        steps = self._most_steps(settings)
        branches = 1 if settings.guidance_scale == 1 else 2
        rows = request.num_prompts * self.num_candidates
        return TextPlan(
            num_candidates=self.num_candidates,
            num_prompts=request.num_prompts,
            gen_length=settings.gen_length,
            num_steps=steps,
            peak_rows=min(rows, self.config.max_rows or rows) * branches,
            stages=(PlannedStage(steps - 1, steps, self.num_candidates, self.num_outputs),),
            cost=Cost(
                nfe=rows * steps * branches,
                denoiser_calls=None,
                tokens=rows * steps * branches * length,
                reward_calls=dict.fromkeys(reward_parts(self.reward), rows),
            ),
        )

    def _most_steps(self, settings: DecodingSettings) -> int:
        """Forward passes that a row takes at most; exact for blocks of fixed length."""
        has_fixed_blocks = self.config.window == "blocks" and self.config.attention == "full"
        if not has_fixed_blocks:
            return settings.gen_length
        return sum(
            steps_of_span(end - first, settings.gen_length, settings.num_inference_steps)
            for first, end in settings.blocks()
        )

    @torch.no_grad()
    def draw(self, request: Request) -> SamplerOutput:
        """Write texts for the prompts, which may be of any lengths, in as few batches as fit.

        Raises:
            UnsupportedPipelineError: the pipeline or its model lacks what the options need.
            ConfigError: an argument is out of range, or options exclude each other.
        """
        pipeline = _supported(request.pipeline)
        settings = self.settings(pipeline, request.arguments)
        encoded = _encode(pipeline, request.prompts, request.arguments)
        pipeline.check_length(encoded.tokens.shape[1], settings.gen_length)
        call = TextCall(
            pipeline=pipeline,
            settings=settings,
            options=self.config,
            is_clean=self.is_clean,
            processors=self.prepare(pipeline, settings),
            reward=self.reward,
            prompts=request.prompts,
            rows=CallRows.of(encoded, request.seed_groups(self.num_candidates)),
            progress=request.progress,
            on_step=request.on_step,
        )
        return call.run()


class TextDecode(TextSampler[TextDecodeConfig]):
    """Texts from a masked diffusion language model, each drawn on its own."""

    name: ClassVar[str] = "decode"
    config_class: ClassVar[type[TextDecodeConfig]] = TextDecodeConfig


def _supported(pipeline: Pipeline) -> LLaDAPipeline:
    if not isinstance(pipeline, LLaDAPipeline):
        raise UnsupportedPipelineError(
            f"{type(pipeline).__name__} does not fill in masked text; give a LLaDAPipeline, or "
            "choose a sampler for pictures."
        )
    return pipeline


def _encode(pipeline: LLaDAPipeline, texts: Sequence[str], arguments: CallArguments) -> PromptRows:
    given = {name: arguments[name] for name in _ENCODING if name in arguments}
    return pipeline.encode(texts, **given).to(device_of(pipeline))
