"""The one base of all samplers: how they are made, planned and called.

A sampler says what a call would do (`plan_request`) and does it (`draw`). Everything before that is
here and the same for all: options, rewards, prompts, a model's own defaults, seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from gensift.config import ready_or_fields, to_dict
from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.pipelines.loading import call_defaults
from gensift.protocols import CallArguments, JsonObject, Pipeline
from gensift.randomness import candidate_seeds
from samplers.exchange import ALONE, Exchange
from samplers.output import OnStage, PlannedStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec, check_reward

OnStep = Callable[[Any], None]
"""Shown a snapshot of what forms, after each step; of what class depends on the modality."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a call is going to do, known before it starts; families add parts of their own.

    Attributes:
        num_candidates: samples per prompt that are drawn to the end, unless they are pruned.
        num_prompts: prompts of the call.
        peak_rows: most rows in one forward pass, guidance included.
        stages: rounds of scoring, per prompt; the last one is that of the finished samples.
        cost: planned work over all prompts.
    """

    num_candidates: int
    num_prompts: int
    peak_rows: int
    stages: tuple[PlannedStage, ...]
    cost: Cost

    @property
    def seeds_per_prompt(self) -> int:
        """Samples per prompt that are begun: each has a seed."""
        return self.num_candidates

    def to_dict(self) -> JsonObject:
        """A mapping for JSON."""
        return to_dict(self)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call of a sampler.

    Attributes:
        pipeline: what draws.
        prompts: the texts; empty where only their number is known, as in a plan.
        num_prompts: how many there are.
        arguments: of the pipeline's own call, a model's own defaults included.
        seed: base from which the candidates' seeds derive.
        seeds: per prompt the seeds given instead; None to derive them.
        progress: called with steps, decodes and rewards done so far.
        on_step: shown what forms after each step.
    """

    pipeline: Pipeline
    prompts: tuple[str, ...]
    num_prompts: int
    arguments: CallArguments = field(default_factory=dict)
    seed: int = 0
    seeds: Sequence[Sequence[int]] | None = None
    progress: Progress | None = None
    on_step: OnStep | None = None

    def seed_groups(self, per_prompt: int) -> list[Sequence[int]]:
        """Per prompt the seeds of its candidates: those given, or as many as asked for.

        Raises:
            ConfigError: there is not one group for each prompt.
        """
        if self.seeds is None:
            return [candidate_seeds(self.seed, at, per_prompt) for at in range(self.num_prompts)]
        if len(self.seeds) != self.num_prompts or not all(self.seeds):
            raise ConfigError(
                f"`seeds` has {len(self.seeds)} groups of {[len(g) for g in self.seeds]} for "
                f"{self.num_prompts} prompt(s); give each prompt its own."
            )
        return list(self.seeds)


ConfigT = TypeVar("ConfigT")
PlanT = TypeVar("PlanT", bound=Plan)


class SamplerBase(ABC, Generic[ConfigT, PlanT]):
    """A way to spend compute on better samples.

    Attributes:
        name: registered name.
        modality: name of the kind of samples ("image", "text", "action"), as in the registry of
            modalities, which says how such samples are judged, written and shown.
        pipelines: what it runs on, in words.
        default_model: zoo model that is used when none is named.
        config_class: frozen keyword-only dataclass of its options.
        is_reproducible: whether a sample's seed gives the same sample in a plain pipeline call.
        shares_candidates: whether several processes may share the candidates of a prompt.
        config: the options.
        reward: what scores samples; several are combined by rank sum. None leaves them in order.
        keep_previews: whether the trace holds a small picture of each candidate at each stage.
        on_stage: shown the candidates, scores and choice of every stage as it happens.
        exchange: the processes among which the candidates of each prompt are shared out.
    """

    name: ClassVar[str]
    modality: ClassVar[str] = "image"
    pipelines: ClassVar[str]
    default_model: ClassVar[str]
    config_class: ClassVar[type[Any]]
    is_reproducible: ClassVar[bool] = True
    shares_candidates: ClassVar[bool] = False

    config: ConfigT

    def __init__(
        self,
        reward: RewardSpec = None,
        config: ConfigT | None = None,
        *,
        keep_previews: bool = False,
        on_stage: OnStage | None = None,
        exchange: Exchange = ALONE,
        **options: Any,
    ) -> None:
        """Give either a ready `config` or its fields as `options`.

        Raises:
            ConfigError: an option is unknown or out of range, both ways are used, or this sampler
                cannot share its candidates with other processes.
        """
        if exchange.size > 1 and not self.shares_candidates:
            raise ConfigError(
                f"{type(self).__name__} cannot share the candidates of a prompt among "
                f"{exchange.size} processes; give each process prompts of its own."
            )
        self.config = ready_or_fields(self.config_class, config, options)
        self.reward = check_reward(reward)
        self.keep_previews = keep_previews
        self.on_stage = on_stage
        self.exchange = exchange

    def plan(
        self, pipeline: Pipeline, prompts: int | str | Sequence[str] = 1, **pipeline_kwargs: Any
    ) -> PlanT:
        """What a call with these arguments would do and cost, without doing it.

        Args:
            pipeline: what would draw.
            prompts: the prompts, or just their number.
            pipeline_kwargs: for the pipeline's own call.
        """
        if isinstance(prompts, int):
            texts: tuple[str, ...] = ()
            count = prompts
        else:
            texts = self.check_prompts(prompts)
            count = len(texts)
        arguments = self.call_arguments(pipeline, pipeline_kwargs)
        return self.plan_request(
            Request(pipeline=pipeline, prompts=texts, num_prompts=count, arguments=arguments)
        )

    def __call__(
        self,
        pipeline: Pipeline,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        on_step: OnStep | None = None,
        **pipeline_kwargs: Any,
    ) -> SamplerOutput:
        """Draw samples for `prompts` and return the best of each.

        Args:
            pipeline: what draws.
            prompts: one or several; the samples of all are drawn together.
            seed: base from which the candidates' seeds derive.
            seeds: per prompt the seed of each candidate that is begun, instead of `seed`.
            progress: called with steps, decodes and rewards done so far.
            on_step: shown what forms after each step, by samplers that can show it.
            pipeline_kwargs: for the pipeline's own call; a zoo model's defaults fill in the rest.

        Raises:
            UnsupportedPipelineError: the pipeline lacks what this sampler needs.
            ConfigError: an argument is unknown or out of range.
        """
        texts = self.check_prompts(prompts)
        request = Request(
            pipeline=pipeline,
            prompts=texts,
            num_prompts=len(texts),
            arguments=self.call_arguments(pipeline, pipeline_kwargs),
            seed=seed,
            seeds=seeds,
            progress=progress,
            on_step=on_step,
        )
        return self.draw(request)

    @abstractmethod
    def plan_request(self, request: Request) -> PlanT:
        """The plan of one call."""

    @abstractmethod
    def draw(self, request: Request) -> SamplerOutput:
        """Make one call."""

    def call_arguments(self, pipeline: Pipeline, given: CallArguments) -> CallArguments:
        """Arguments of the pipeline's call: those `given`, over the model's own defaults.

        Raises:
            ConfigError: an argument is unknown or out of range.
        """
        return {**call_defaults(pipeline), **given}

    def check_prompts(self, prompts: str | Sequence[str]) -> tuple[str, ...]:
        """The prompts as a tuple.

        Raises:
            ConfigError: there is none, or one is no text or empty.
        """
        is_list = isinstance(prompts, Sequence)
        texts = (prompts,) if isinstance(prompts, str) else tuple(prompts) if is_list else ()
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ConfigError(
                f"`prompts` is {repr(prompts)[:120]}; give a text or a list of texts, none empty."
            )
        return texts
