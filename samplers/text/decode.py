"""Decoding of masked diffusion language models with any combination of policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from gensift.config import from_dict, ready_or_fields, to_dict
from gensift.cost import Cost
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.prompts import PromptRows
from gensift.pipelines.llada.sampling import steps_of_span
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.pipelines.loading import call_defaults, device_of
from gensift.randomness import candidate_seeds
from samplers.output import PlannedStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec, check_reward, reward_parts
from samplers.text.call import CallRows, ProcessorsOfBatch, StepSnapshot, TextCall
from samplers.text.config import TextDecodeConfig

DEFAULT_CANDIDATES = 16
_ENCODING = ("use_chat_template", "add_generation_prompt")


@dataclass(frozen=True, kw_only=True)
class TextPlan:
    """What a call is going to do, known before it starts.

    Attributes:
        num_candidates: texts per prompt.
        num_prompts: prompts of the call.
        gen_length: tokens of each text.
        num_steps: most forward passes of a row.
        peak_rows: most rows in one forward pass, guidance included.
        stages: of the scoring.
        cost: planned work over all prompts; texts that end early, thresholds and caches make it
            less.
    """

    num_candidates: int
    num_prompts: int
    gen_length: int
    num_steps: int
    peak_rows: int
    stages: tuple[PlannedStage, ...]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return to_dict(self)


class TextDecode:
    """Texts from a masked diffusion language model, each drawn on its own; see the subclasses.

    Attributes:
        reward: what judges the texts, a function of texts and prompts; a mapping of several is
            combined by rank sum. None leaves them in the order they were drawn.
        config: the options.
        is_reproducible: whether a text's seed gives the same text in a plain pipeline call.
    """

    name: ClassVar[str] = "decode"
    modality: ClassVar[str] = "text"
    pipelines: ClassVar[str] = "LLaDA, Dream and other masked diffusion language models"
    config_class: ClassVar[type[TextDecodeConfig]] = TextDecodeConfig
    default_model: ClassVar[str] = "countdown-llada"
    is_reproducible: ClassVar[bool] = False

    def __init__(
        self,
        reward: RewardSpec | Any = None,
        config: TextDecodeConfig | None = None,
        *,
        keep_previews: bool = False,
        **options: Any,
    ) -> None:
        """Give either a ready `config` or its fields as `options`.

        Raises:
            ConfigError: an option is unknown or out of range, or both ways are used.
        """
        self.config = ready_or_fields(self.config_class, config, options)
        self.reward = check_reward(reward)

    @property
    def is_clean(self) -> bool:
        """Whether confidence is that of the logits before they are processed."""
        return False

    @property
    def num_candidates(self) -> int:
        """Texts per prompt."""
        return self.config.num_candidates or max(DEFAULT_CANDIDATES, self.config.num_outputs or 0)

    def settings(self, pipeline: Any, arguments: Mapping[str, Any]) -> DecodingSettings:
        """Options of the plain call, out of all `arguments`.

        Raises:
            UnsupportedPipelineError: no masked diffusion language model.
            ConfigError: an argument is unknown or out of range.
        """
        if not isinstance(pipeline, LLaDAPipeline):
            raise UnsupportedPipelineError(
                f"{type(pipeline).__name__} does not fill in masked text; give a LLaDAPipeline, or "
                "choose a sampler for pictures."
            )
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

    def plan(
        self, pipeline: Any, prompts: int | str | Sequence[str] = 1, **pipeline_kwargs: Any
    ) -> TextPlan:
        """What a call with these arguments would do and cost at most, without doing it."""
        arguments = call_defaults(pipeline) | pipeline_kwargs
        settings = self.settings(pipeline, arguments)
        texts = [] if isinstance(prompts, int) else _texts(prompts)
        count = prompts if isinstance(prompts, int) else len(texts)
        length = settings.gen_length
        if texts:
            length += _encode(pipeline, texts, arguments).tokens.shape[1]
        steps = self._most_steps(settings)
        branches = 1 if settings.guidance_scale == 1 else 2
        rows = count * self.num_candidates
        return TextPlan(
            num_candidates=self.num_candidates,
            num_prompts=count,
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

    @property
    def num_outputs(self) -> int:
        """Texts returned per prompt."""
        return self.config.num_outputs or self.num_candidates

    @torch.no_grad()
    def __call__(
        self,
        pipeline: Any,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        on_step: Callable[[StepSnapshot], None] | None = None,
        **pipeline_kwargs: Any,
    ) -> SamplerOutput:
        """Write texts for `prompts`.

        Args:
            pipeline: a `LLaDAPipeline`.
            prompts: one or several, of any lengths; all their texts are decoded together.
            seed: base from which the seeds of the texts derive.
            seeds: per prompt one for each text, instead of `seed`.
            progress: told of steps ("denoise") and of rewards.
            on_step: shown the texts after each step.
            pipeline_kwargs: of the pipeline's call; a zoo model's defaults fill in the rest.

        Raises:
            UnsupportedPipelineError: the pipeline or its model lacks what the options need.
            ConfigError: an argument is out of range, or options do not go together.
        """
        texts = _texts(prompts)
        arguments = call_defaults(pipeline) | pipeline_kwargs
        settings = self.settings(pipeline, arguments)
        encoded = _encode(pipeline, texts, arguments)
        pipeline.check_length(encoded.tokens.shape[1], settings.gen_length)
        groups = seeds or [
            candidate_seeds(seed, index, self.num_candidates) for index in range(len(texts))
        ]
        if len(groups) != len(texts) or not all(groups):
            raise ConfigError(f"Seeds for {len(groups)} prompts came with {len(texts)} prompts.")
        rows = CallRows.of(encoded, groups)
        return TextCall(self, pipeline, settings, texts, rows, progress, on_step).run()

    def prepare(self, pipeline: Any, settings: DecodingSettings) -> ProcessorsOfBatch:
        """What makes the logits processors of every batch of a call; none here."""
        return lambda batch: ()


def _texts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError("A prompt is empty; give a text.")
    return texts


def _encode(pipeline: Any, texts: Sequence[str], arguments: Mapping[str, Any]) -> PromptRows:
    given = {name: arguments[name] for name in _ENCODING if name in arguments}
    rows: PromptRows = pipeline.encode(texts, **given).to(device_of(pipeline))
    return rows
