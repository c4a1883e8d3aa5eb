"""What all searches over diffusion candidates share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import torch

from gensift.denoising.prediction import check_scheduler
from gensift.errors import ConfigError
from gensift.protocols import AnyFunction, Arguments, CallArguments, Pipeline, PipelineOutput
from gensift.trace import PromptTrace
from samplers.base import Request, SamplerBase
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import SearchConfig
from samplers.diffusion.engine import CallSearch, search_in_one_call
from samplers.diffusion.guidance import guidance_rows_of
from samplers.diffusion.planning import CallShape, DiffusionPlan, plan_of_shape
from samplers.diffusion.schedule import (
    Checkpoint,
    UnitCosts,
    largest_count,
    num_early_scored,
    plan_stages,
    search_cost,
)
from samplers.diffusion.strategy import Pruning, SelectionStrategy
from samplers.output import PlannedStage, Progress, SamplerOutput

DEFAULT_CANDIDATES = 16
SearchConfigT = TypeVar("SearchConfigT", bound=SearchConfig)


class DiffusionSearch(SamplerBase[SearchConfigT, DiffusionPlan]):
    """A search among candidates of one diffusion pipeline.

    A subclass says at which steps of the loop there is a stage (`checkpoints`) and, unless it just
    prunes, who goes on there (`strategy`). Budgets, plans, scoring, traces and the pipeline call
    are here. One that makes several calls overrides `search`.

    Attributes:
        nonuniform_arguments: arguments of a call that make its steps differ, and that are planned
            for.
    """

    pipelines: ClassVar[str] = "diffusers pipelines whose denoiser is declared"
    default_model: ClassVar[str] = "shapes-flux"
    nonuniform_arguments: ClassVar[frozenset[str]] = frozenset()

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """Stages in a loop of `num_steps`; none but the last unless a subclass says so."""
        return ()

    def strategy(self, seeds: Sequence[int], num_steps: int) -> SelectionStrategy:
        """What chooses at the stages among the candidates of one prompt, who have these seeds."""
        return Pruning(self.checkpoints(num_steps), self.config.num_outputs)

    def solver(self, call: PipelineCall) -> AbstractContextManager[None]:
        """A block that changes how the scheduler steps, for one call; by default it does not."""
        return nullcontext()

    @property
    def least_candidates(self) -> int:
        """Candidates per prompt without which there is nothing to return."""
        return self.config.num_outputs

    @property
    def default_candidates(self) -> int:
        """Candidates per prompt where neither a number nor a budget is given."""
        return DEFAULT_CANDIDATES

    def stages(self, num_steps: int, num_candidates: int) -> tuple[PlannedStage, ...]:
        """Every round of scoring in a loop of `num_steps`, per prompt, the last one included."""
        outputs = self.config.num_outputs if self.reward is not None else num_candidates
        return plan_stages(self.checkpoints(num_steps), num_steps, num_candidates, outputs)

    def rows_per_step(self, call: PipelineCall) -> float:
        """Denoiser rows of a candidate per step, on average over the loop."""
        return guidance_rows_of(call.bound, call.arguments)

    def shape(self, call: PipelineCall, num_candidates: int) -> CallShape:
        """How large the search in one call is, with `num_candidates` per prompt."""
        stages = self.stages(call.num_steps, num_candidates)
        return CallShape(
            num_candidates=num_candidates,
            num_rows=num_candidates,
            num_outputs=stages[-1].kept,
            stages=stages,
            idle_steps=0,
            rows_per_step=self.rows_per_step(call),
        )

    def check(self, call: PipelineCall, num_candidates: int) -> None:
        """Refuse what cannot be searched, before anything is drawn.

        Raises:
            UnsupportedPipelineError: estimates of the scheduler are not known.
            ConfigError: fewer candidates than are to be returned.
        """
        if self.reward is not None and self.checkpoints(call.num_steps):
            check_scheduler(call.bound.scheduler)
        outputs = self.config.num_outputs if self.reward is not None else num_candidates
        if outputs > num_candidates:
            raise ConfigError(
                f"{outputs} outputs were asked for but there are {num_candidates} candidates; "
                "raise the number of candidates."
            )

    def num_candidates(self, call: PipelineCall) -> int:
        """Candidates per prompt: as configured, or as many as the budget allows."""
        least = max(1, self.least_candidates)
        if self.config.budget is None:
            return self.config.num_candidates or max(self.default_candidates, least)
        costs = self.unit_costs(call)
        return largest_count(self.cost_of(call, costs), least, self.config.budget)

    def cost_of(self, call: PipelineCall, costs: UnitCosts) -> Callable[[int], float]:
        """What a search with so many candidates costs per prompt, in the unit of `costs`."""

        def cost(count: int) -> float:
            shape = self.shape(call, count)
            return search_cost(shape.stages, costs) - shape.idle_steps * costs.step

        return cost

    def plan_call(self, call: PipelineCall, num_candidates: int) -> DiffusionPlan:
        """The plan of one pipeline call with `num_candidates` per prompt."""
        self.check(call, num_candidates)
        shape = self.shape(call, num_candidates)
        looks_early = self.reward is not None and num_early_scored(shape.stages) > 0
        return plan_of_shape(
            call,
            shape,
            self.reward,
            max_rows=self.config.max_rows,
            is_tiny=looks_early and self.preview_decoder(call) is not None,
        )

    def search(
        self, call: PipelineCall, progress: Progress | None, **changes: Any
    ) -> tuple[PipelineOutput, SamplerOutput]:
        """Make the call; returns what the pipeline returned, and what was found.

        Args:
            call: with its candidates fixed.
            progress: called with what is done so far.
            changes: of the `CallSearch`, for searches that make a call their own way.
        """
        count = len(call.seeds[0])
        self.check(call, count)
        return search_in_one_call(call, self.call_search(call, progress, **changes))

    def call_search(
        self, call: PipelineCall, progress: Progress | None, **changes: Any
    ) -> CallSearch:
        """What is to be done in one call."""
        steps = call.num_steps
        given: Arguments = {
            "shape": self.shape(call, len(call.seeds[0])),
            "checkpoints": self.checkpoints(steps),
            "strategies": [self.strategy(seeds, steps) for seeds in call.seeds],
            "reward": self.reward,
            "early_decoder": self.preview_decoder(call),
            "max_rows": self.config.max_rows,
            "solver": lambda: self.solver(call),
            "keep_previews": self.keep_previews,
            "progress": progress,
            "on_stage": self.on_stage,
            "exchange": self.exchange,
        }
        return CallSearch(**(given | changes))

    def plan_request(self, request: Request) -> DiffusionPlan:
        """See `SamplerBase`. A budget in FLOPs or seconds is measured on the first prompt."""
        texts = list(request.prompts) or ["a"] * request.num_prompts
        call = self.bind_request(request, texts)
        return self.plan_call(call, self.num_candidates(call))

    def draw(self, request: Request) -> SamplerOutput:
        """See `SamplerBase`."""
        call = self.bind_request(request, list(request.prompts))
        call = call.with_candidates(self.num_candidates, request.seed, request.seeds, self.exchange)
        return self.search(call, request.progress)[1]

    def bind_request(self, request: Request, texts: Sequence[str]) -> PipelineCall:
        """The pipeline call that a request asks for."""
        arguments = {**request.arguments, "prompt": list(texts)}
        return self.bind(request.pipeline, type(request.pipeline).__call__, (), arguments)

    def bind_traced(
        self, pipeline: Pipeline, trace: PromptTrace, pipeline_kwargs: CallArguments
    ) -> PipelineCall:
        """The call that a trace came from, for drawing some of its candidates again."""
        arguments = self.call_arguments(pipeline, pipeline_kwargs)
        request = Request(
            pipeline=pipeline, prompts=(trace.prompt,), num_prompts=1, arguments=arguments
        )
        return self.bind_request(request, [trace.prompt])

    def bind(
        self,
        pipe: Pipeline,
        function: AnyFunction,
        args: tuple[object, ...],
        kwargs: CallArguments,
        scored_prompts: Sequence[str] | None = None,
    ) -> PipelineCall:
        """A call of the pipeline as given, with what the options ask of it; see `PipelineCall`."""
        nonuniform = self.nonuniform_arguments
        given = {**kwargs, **self.config.call_arguments()}
        return PipelineCall.bind(pipe, function, args, given, scored_prompts, nonuniform=nonuniform)

    def call_arguments(self, pipeline: Pipeline, given: CallArguments) -> CallArguments:
        """See `SamplerBase`.

        Raises:
            ConfigError: an argument is given both for the call and by an option of this search.
        """
        for name in self.config.call_arguments().keys() & given.keys():
            raise ConfigError(
                f"`{name}` is given both as an option of {self.name} and for the pipeline's call; "
                "give it once."
            )
        return super().call_arguments(pipeline, given)

    def preview_decoder(self, call: PipelineCall) -> torch.nn.Module | None:
        """The tiny decoder of early estimates, or None for the pipeline's own VAE."""
        return call.bound.preview_decoder(getattr(self.config, "preview_decoder", None))

    def unit_costs(self, call: PipelineCall) -> UnitCosts:
        """What a step and a scoring cost, in the unit of the budget."""
        if self.config.budget_unit == "nfe":
            return UnitCosts(step=self.rows_per_step(call))
        from samplers.diffusion.unit_costs import measure_unit_costs

        decoder = self.preview_decoder(call)
        return measure_unit_costs(call, self.reward, self.config.budget_unit, decoder)
