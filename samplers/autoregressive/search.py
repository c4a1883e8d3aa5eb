"""What all searches over next-scale candidates share: their options, plan and call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.next_scale.pipeline import SamplingOptions
from gensift.pipelines.next_scale.scales import Scale, ScaleSchedule
from gensift.protocols import CallArguments, Pipeline
from samplers.autoregressive.config import NextScaleSearchConfig as NextScaleSearchConfig
from samplers.autoregressive.embeddings import Embedding
from samplers.autoregressive.engine import SearchTask, run_search
from samplers.autoregressive.plan import NextScalePlan, branches_of, planned_cost, planned_stages
from samplers.autoregressive.population import Population
from samplers.autoregressive.protocol import NextScaleModel
from samplers.autoregressive.schedule import SearchSchedule
from samplers.autoregressive.view import Selector
from samplers.base import Request, SamplerBase
from samplers.output import SamplerOutput
from samplers.scoring import RewardSpec, reward_parts

DEFAULT_CANDIDATES = 4


class NextScaleSearch(SamplerBase[NextScaleSearchConfig, NextScalePlan]):
    """A search among candidates of one next-scale model.

    A search of one's own says after which scales it chooses (`schedule`), by what (`selectors`),
    and where rewards are asked (`scored_scales`); the engine does the rest.

    Attributes:
        embed: what pictures are compared by, in searches that compare them; None for that of the
            options.
    """

    pipelines: ClassVar[str] = "VAR, Infinity and other next-scale models"
    config_class: ClassVar[type[NextScaleSearchConfig]] = NextScaleSearchConfig
    default_model: ClassVar[str] = "shapes-infinity"

    def __init__(
        self,
        reward: RewardSpec = None,
        config: NextScaleSearchConfig | None = None,
        *,
        embed: Embedding | None = None,
        **options: Any,
    ) -> None:
        """As of every sampler, and `embed`: pictures to tokens `(pictures, tokens, channels)`."""
        super().__init__(reward, config, **options)
        self.embed = embed

    @property
    def num_candidates(self) -> int:
        """Candidates per prompt that are drawn to the end."""
        return self.config.num_candidates or max(DEFAULT_CANDIDATES, self.config.num_outputs)

    def schedule(self, num_scales: int) -> SearchSchedule:
        """Widths and selections for a model of so many scales; no selection unless overridden."""
        return SearchSchedule((1,) * num_scales)

    def selectors(self, scale: int, schedule: SearchSchedule) -> Sequence[Selector]:
        """What looks at the candidates after a scale, in this order; nothing unless overridden."""
        return ()

    def scored_scales(self, schedule: SearchSchedule) -> tuple[int, ...]:
        """Scales but the last after which the rewards are asked."""
        return schedule.resample_scales

    def preview_grid(self, scales: ScaleSchedule) -> Scale | None:
        """The grid that candidates on the way are decoded at; None for the full one."""
        return None

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

    def prepare(self, pipeline: Pipeline, schedule: SearchSchedule) -> None:
        """Load what a search needs, before anything is drawn."""

    def plan_request(self, request: Request) -> NextScalePlan:
        """What one call draws, and where it chooses."""
        scales, options = settings_of(request.pipeline, request.arguments)
        schedule = self.schedule(len(scales))
        self.check(schedule)
        branches = branches_of(options, len(scales))
        drawn = [width * self.num_candidates for width in schedule.drawn_widths]
        rows = max(drawn) * request.num_prompts
        has_reward = self.reward is not None
        outputs = self.config.num_outputs if has_reward else self.num_candidates
        return NextScalePlan(
            num_candidates=self.num_candidates,
            num_seeds=drawn[0],
            num_prompts=request.num_prompts,
            num_scales=len(scales),
            peak_rows=min(rows, self.config.max_rows or rows) * branches[0],
            schedule=schedule,
            stages=planned_stages(schedule, self.num_candidates, outputs),
            cost=planned_cost(
                schedule,
                scales,
                branches,
                self.num_candidates * request.num_prompts,
                scored_scales=self.scored_scales(schedule) if has_reward else (),
                rewards=tuple(reward_parts(self.reward)),
                is_reduced=self.preview_grid(scales) is not None,
            ),
        )

    def draw(self, request: Request) -> SamplerOutput:
        """Search for all prompts together.

        `seeds` are those of the candidates that are drawn at the first scale; a prompt may have
        more of them than another, each a multiple of the first width.

        Raises:
            UnsupportedPipelineError: the pipeline is no next-scale model.
            ConfigError: an argument is out of range.
        """
        model = next_scale_model(request.pipeline)
        scales, _ = settings_of(request.pipeline, request.arguments)
        plan = self.plan_request(request)
        schedule = plan.schedule
        groups = request.seed_groups(plan.num_seeds)
        _check_widths(groups, schedule.widths[0])
        self.prepare(request.pipeline, schedule)
        task = SearchTask(
            model=model,
            scales=scales,
            arguments=request.arguments,
            populations=[
                Population(text, group, schedule.widths[0])
                for text, group in zip(request.prompts, groups, strict=True)
            ],
            plan=plan,
            selectors=[self.selectors(scale, schedule) for scale in range(plan.num_scales)],
            reward=self.reward,
            preview_grid=self.preview_grid(scales),
            num_outputs=self.config.num_outputs,
            max_rows=self.config.max_rows,
            keep_previews=self.keep_previews,
            on_stage=self.on_stage,
            progress=request.progress,
        )
        return run_search(task)


def next_scale_model(pipeline: Pipeline) -> NextScaleModel:
    """`pipeline` as a next-scale model.

    Raises:
        UnsupportedPipelineError: it is none.
    """
    if not isinstance(pipeline, NextScaleModel):
        raise UnsupportedPipelineError(
            f"{type(pipeline).__name__} does not draw scale by scale; give a next-scale model such "
            "as InfinityPipeline or VARPipeline, or choose a sampler for diffusion."
        )
    return pipeline


def settings_of(
    pipeline: Pipeline, arguments: CallArguments
) -> tuple[ScaleSchedule, SamplingOptions]:
    """The scales that a call draws, and how.

    Raises:
        UnsupportedPipelineError: the pipeline is no next-scale model.
    """
    model = next_scale_model(pipeline)
    known = inspect.signature(model.settings).parameters
    return model.settings(**{name: arguments[name] for name in known if name in arguments})


def _check_widths(groups: Sequence[Sequence[int]], width: int) -> None:
    for group in groups:
        if len(group) % width:
            raise ConfigError(
                f"A prompt has {len(group)} seeds; the search starts with {width} for each "
                f"finished candidate, so give a multiple of {width}."
            )
