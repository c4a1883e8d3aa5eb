"""What all searches over next-scale candidates share: options, planning, and the call."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gensift.config import check, option, ready_or_fields, to_dict
from gensift.cost import Cost
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.loading import call_defaults
from gensift.pipelines.next_scale.pipeline import SamplingOptions
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.randomness import candidate_seeds
from samplers.autoregressive.embeddings import Embedding
from samplers.autoregressive.population import Population
from samplers.autoregressive.protocol import NextScaleModel
from samplers.autoregressive.run import SearchRun
from samplers.autoregressive.schedule import SearchSchedule
from samplers.autoregressive.selectors import Selector
from samplers.output import OnStage, PlannedStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec, check_reward, reward_parts

DEFAULT_CANDIDATES = 4


@dataclass(frozen=True, kw_only=True)
class NextScaleSearchConfig:
    """Options that every next-scale search has."""

    num_candidates: int | None = option(
        None,
        minimum=1,
        help="candidates per prompt that are drawn to the end, the N of best-of-N; default 4",
    )
    num_outputs: int = option(1, minimum=1, help="samples returned per prompt, best first")
    max_rows: int | None = option(
        None, minimum=1, help="most candidates drawn, and pictures decoded, at a time"
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        if self.num_candidates is not None and self.num_outputs > self.num_candidates:
            yield f"`num_outputs` {self.num_outputs} exceeds `num_candidates` {self.num_candidates}"


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What a search is going to do, known before it starts.

    Attributes:
        num_candidates: per prompt, drawn to the end.
        num_seeds: per prompt, drawn at the first scale: each has a seed.
        num_prompts: prompts searched in one call.
        num_scales: of the model.
        peak_rows: most transformer rows in one forward pass, guidance included.
        schedule: widths and selections.
        stages: choices, per prompt; the last one is the final scoring.
        cost: planned work over all prompts. Candidates that come out alike are judged once, so a
            run may decode and judge fewer.
    """

    num_candidates: int
    num_seeds: int
    num_prompts: int
    num_scales: int
    peak_rows: int
    schedule: SearchSchedule
    stages: tuple[PlannedStage, ...]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return to_dict(self)


class NextScaleSearch:
    """A search among candidates of one next-scale model; see the subclasses.

    Attributes:
        reward: what judges the candidates; a mapping of several is combined by rank sum.
        config: the options.
        keep_previews: whether the trace holds a small picture of each candidate at each choice.
        on_stage: shown the candidates, scores and choice of every stage as it happens.
        embed: what pictures are compared by; None for the `embedding` of the options.
        is_reproducible: whether a sample's seed gives the same sample in a plain pipeline call.
    """

    name: ClassVar[str]
    modality: ClassVar[str] = "image"
    pipelines: ClassVar[str] = "VAR, Infinity and other next-scale models"
    config_class: ClassVar[type[NextScaleSearchConfig]] = NextScaleSearchConfig
    default_model: ClassVar[str] = "shapes-infinity"
    is_reproducible: ClassVar[bool] = True

    def __init__(
        self,
        reward: RewardSpec,
        config: NextScaleSearchConfig | None = None,
        *,
        keep_previews: bool = False,
        on_stage: OnStage | None = None,
        embed: Embedding | None = None,
        **options: Any,
    ) -> None:
        """Give either a ready `config` or its fields as `options`.

        Raises:
            ConfigError: an option is unknown or out of range, or both ways are used.
        """
        self.config = ready_or_fields(self.config_class, config, options)
        self.reward = check_reward(reward)
        self.keep_previews = keep_previews
        self.on_stage = on_stage
        self.embed = embed

    def schedule(self, num_scales: int) -> SearchSchedule:
        """Widths and selections for a model of so many scales; no selection unless overridden."""
        return SearchSchedule((1,) * num_scales)

    @property
    def num_candidates(self) -> int:
        """Candidates per prompt that are drawn to the end."""
        return self.config.num_candidates or max(DEFAULT_CANDIDATES, self.config.num_outputs)

    def plan(
        self, pipeline: Any, prompts: int | str | Sequence[str] = 1, **pipeline_kwargs: Any
    ) -> SearchPlan:
        """What a call with these arguments would do and cost, without doing it."""
        count = prompts if isinstance(prompts, int) else len(_texts(prompts))
        settings = settings_of(pipeline, call_defaults(pipeline) | pipeline_kwargs)
        return self._plan(*settings, count)

    def _plan(
        self, scales: ScaleSchedule, options: SamplingOptions, num_prompts: int
    ) -> SearchPlan:
        schedule = self.schedule(len(scales))
        self.check(schedule)
        branches = [2 if options.is_guided_from(scale) else 1 for scale in range(len(scales))]
        drawn = [width * self.num_candidates for width in schedule.drawn_widths]
        rows = max(drawn) * num_prompts
        return SearchPlan(
            num_candidates=self.num_candidates,
            num_seeds=drawn[0],
            num_prompts=num_prompts,
            num_scales=len(scales),
            peak_rows=min(rows, self.config.max_rows or rows) * branches[0],
            schedule=schedule,
            stages=self._planned_stages(schedule),
            cost=self._planned_cost(schedule, scales, branches, num_prompts),
        )

    def check(self, schedule: SearchSchedule) -> None:
        """Refuse what cannot be searched, before anything is drawn.

        Raises:
            ConfigError: rewards are to decide, and there is none.
        """
        if schedule.resample_scales and self.reward is None:
            raise ConfigError(
                f"{type(self).__name__} chooses by a reward after scales "
                f"{', '.join(map(str, schedule.resample_scales))}; give one, or no "
                "`resample_scales`."
            )

    def prepare(self, pipeline: Any, schedule: SearchSchedule) -> None:
        """Load what a search needs, before anything is drawn."""

    def selectors(self, run: SearchRun) -> Sequence[Selector]:
        """What is done with the candidates after the scale that was drawn last, in this order."""
        return ()

    def judged_scales(self, schedule: SearchSchedule) -> tuple[int, ...]:
        """Scales but the last after which the reward is asked."""
        return schedule.resample_scales

    def _planned_stages(self, schedule: SearchSchedule) -> tuple[PlannedStage, ...]:
        last, size = len(schedule.widths) - 1, self.num_candidates
        chosen = [
            PlannedStage(
                scale,
                last + 1,
                schedule.drawn_widths[scale] * size,
                schedule.widths[scale] * size,
            )
            for scale in schedule.selections
        ]
        outputs = self.config.num_outputs if self.reward is not None else size
        return (*chosen, PlannedStage(last, last + 1, size, outputs))

    def _planned_cost(
        self, schedule: SearchSchedule, scales: ScaleSchedule, branches: list[int], prompts: int
    ) -> Cost:
        size = self.num_candidates * prompts
        rows = [width * size for width in schedule.drawn_widths]
        judged = self.judged_scales(schedule) if self.reward is not None else ()
        decoded = sum(rows[scale] for scale in {*schedule.cluster_scales, *judged})
        is_reduced = self.reduced_scale(scales) is not None
        return Cost(
            tokens=sum(
                n * row * branch
                for n, row, branch in zip(scales.token_counts, rows, branches, strict=True)
            ),
            decodes=size + decoded * (not is_reduced),
            preview_decodes=decoded * is_reduced,
            reward_calls={
                name: sum(rows[scale] for scale in judged) + size
                for name in reward_parts(self.reward)
            },
        )

    def reduced_scale(self, scales: ScaleSchedule) -> tuple[int, int] | None:
        """The grid that half-drawn candidates are decoded at; None for the full one."""
        return None

    def __call__(
        self,
        pipeline: Any,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        progress: Progress | None = None,
        **pipeline_kwargs: Any,
    ) -> SamplerOutput:
        """Search for `prompts` and return the best samples of each.

        Args:
            pipeline: of a next-scale model.
            prompts: one or several; all candidates of all prompts are drawn together.
            seed: base from which the candidates' seeds derive.
            seeds: per prompt the seeds of those drawn at the first scale, instead of `seed`. A
                prompt may have more of them than another, each a multiple of the first width.
            progress: told of scales, decodes and rewards.
            pipeline_kwargs: for the pipeline; a zoo model's defaults fill in the rest.

        Raises:
            UnsupportedPipelineError: the pipeline is no next-scale model.
            ConfigError: an argument is out of range.
        """
        texts = _texts(prompts)
        arguments = call_defaults(pipeline) | pipeline_kwargs
        scales, settings = settings_of(pipeline, arguments)
        plan = self._plan(scales, settings, len(texts))
        groups = seeds or [candidate_seeds(seed, at, plan.num_seeds) for at in range(len(texts))]
        _check_seeds(groups, len(texts), plan.schedule.widths[0])
        self.prepare(pipeline, plan.schedule)
        populations = [
            Population(text, group, plan.schedule.widths[0])
            for text, group in zip(texts, groups, strict=True)
        ]
        run = SearchRun(self, pipeline, populations, plan, progress)
        return run.run(scales, arguments)


def settings_of(
    pipeline: Any, arguments: Mapping[str, Any]
) -> tuple[ScaleSchedule, SamplingOptions]:
    """The scales that a call draws, and how.

    Raises:
        UnsupportedPipelineError: the pipeline is no next-scale model.
    """
    if not isinstance(pipeline, NextScaleModel):
        raise UnsupportedPipelineError(
            f"{type(pipeline).__name__} does not draw scale by scale; give a next-scale model such "
            "as InfinityPipeline or VARPipeline, or choose a sampler for diffusion."
        )
    known = inspect.signature(pipeline.settings).parameters
    return pipeline.settings(**{name: arguments[name] for name in known if name in arguments})


def _texts(prompts: str | Sequence[str]) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError("A prompt is empty; give a text, or the name or index of a class.")
    return texts


def _check_seeds(groups: Sequence[Sequence[int]], prompts: int, width: int) -> None:
    if len(groups) != prompts:
        raise ConfigError(f"Seeds for {len(groups)} prompts were given with {prompts} prompts.")
    for group in groups:
        if not group or len(group) % width:
            raise ConfigError(
                f"A prompt has {len(group)} seeds; the search starts with {width} for each "
                f"finished candidate, so give a multiple of {width}."
            )
