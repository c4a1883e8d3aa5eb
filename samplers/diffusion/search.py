"""What all searches over diffusion candidates share: options, planning, and the call itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gensift.config import check, option, ready_or_fields, to_dict
from gensift.cost import Cost
from gensift.denoising.modules import family_of_pipeline
from gensift.denoising.prediction import check_scheduler
from gensift.errors import ConfigError
from gensift.pipelines.loading import call_defaults, load_preview_decoder
from samplers.diffusion.attach import PipelineCall, attach, search_in_one_call
from samplers.diffusion.guidance import guidance_rows
from samplers.diffusion.schedule import (
    Checkpoint,
    UnitCosts,
    denoising_steps,
    largest_search,
    num_early_scored,
    num_scored,
    plan_stages,
)
from samplers.diffusion.sift import Sift
from samplers.exchange import ALONE, Exchange
from samplers.output import OnStage, PlannedStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec, Scorer, check_reward

BudgetUnit = Literal["nfe", "flops", "seconds"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Options that every diffusion search has."""

    num_candidates: int | None = option(
        None, minimum=1, help="candidates per prompt; default 16, or what the budget allows"
    )
    num_outputs: int = option(1, minimum=1, help="samples returned per prompt, best first")
    budget: float | None = option(
        None, minimum=0, help="most that the search for one prompt may cost, in budget_unit"
    )
    budget_unit: BudgetUnit = option(
        "nfe",
        choices=("nfe", "flops", "seconds"),
        help="nfe counts denoiser rows; flops and seconds are measured, decode and reward included",
    )
    max_rows: int | None = option(
        None, minimum=1, help="most denoiser rows, and pictures decoded, at a time; bounds memory"
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        if self.budget is not None and not math.isfinite(self.budget):
            yield f"`budget` {self.budget} is no amount"
        if self.num_candidates is not None and self.budget is not None:
            yield "`num_candidates` and `budget` are both given; give one"
        elif self.num_candidates is not None and self.num_outputs > self.num_candidates:
            yield f"`num_outputs` {self.num_outputs} exceeds `num_candidates` {self.num_candidates}"

    def call_arguments(self) -> dict[str, Any]:
        """What the options ask of the pipeline's call."""
        return {}


@dataclass(frozen=True, kw_only=True)
class EarlySearchConfig(SearchConfig):
    """Options of the searches that judge candidates before they are finished."""

    preview_decoder: str = option(
        "auto",
        help="what decodes early estimates: a folder or hub id of an AutoencoderTiny, vae for the "
        "pipeline's own, auto for the tiny one of a zoo model, where there is one",
    )


DEFAULT_CANDIDATES = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search is going to do, known before it starts.

    Attributes:
        num_candidates: per prompt.
        num_prompts: prompts searched in one call.
        num_steps: denoising steps of the loop.
        guidance_rows: denoiser rows per candidate and step.
        peak_rows: most denoiser rows in one forward pass.
        stages: rounds of scoring, per prompt; the last one is the final scoring.
        cost: planned work over all prompts.
    """

    num_candidates: int
    num_prompts: int
    num_steps: int
    guidance_rows: int
    peak_rows: int
    stages: tuple[PlannedStage, ...]
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return to_dict(self)


class DiffusionSearch:
    """A search among candidates of one diffusion pipeline; see the subclasses.

    Attributes:
        reward: what judges the candidates; a mapping of several is combined by rank sum.
        config: the options.
        keep_previews: whether the trace holds a small picture of each candidate at each stage.
        on_stage: shown the candidates, scores and choice of every stage as it happens.
        exchange: the processes among which the candidates of each prompt are shared out.
        is_reproducible: whether a sample's seed gives the same sample in a plain pipeline call.
        shares_candidates: whether several processes may share the candidates of a prompt.
        uneven_arguments: arguments of a call that make its steps differ, and that are planned for.
    """

    name: ClassVar[str]
    modality: ClassVar[str] = "image"
    pipelines: ClassVar[str] = "diffusers pipelines whose denoiser is declared"
    config_class: ClassVar[type[SearchConfig]] = SearchConfig
    default_model: ClassVar[str] = "shapes-flux"
    is_reproducible: ClassVar[bool] = True
    shares_candidates: ClassVar[bool] = False
    nonuniform_arguments: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        reward: RewardSpec,
        config: SearchConfig | None = None,
        *,
        keep_previews: bool = False,
        on_stage: OnStage | None = None,
        exchange: Exchange = ALONE,
        **options: Any,
    ) -> None:
        """Give either a ready `config` or its fields as `options`.

        Raises:
            ConfigError: an option is unknown or out of range, both ways are used, or this search
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

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """Where to prune in a loop of `num_steps`; nowhere unless a subclass says so."""
        return ()

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
            pipeline: a diffusers pipeline.
            prompts: one or several; all candidates of all prompts run in one call.
            seed: base from which the candidates' seeds derive.
            seeds: per prompt the seed of each candidate, instead of `seed`.
            progress: told of steps, decodes and rewards.
            pipeline_kwargs: for the pipeline's own call; a zoo model's defaults fill in the rest.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        self._check_given(pipeline_kwargs)
        arguments = call_defaults(pipeline) | pipeline_kwargs
        with attach(self, pipeline, seed=seed, seeds=seeds, progress=progress) as run:
            pipeline(prompt=texts, **arguments)
        return run.output

    def plan(
        self, pipeline: Any, prompts: int | str | Sequence[str] = 1, **pipeline_kwargs: Any
    ) -> Plan:
        """What a call with these arguments would do and cost, without doing it.

        Args:
            pipeline: a diffusers pipeline.
            prompts: the prompts, or just their number. A budget in FLOPs or seconds runs a few
                steps of the first prompt to measure the prices, so the reward must understand it.
            pipeline_kwargs: for the pipeline's own call.
        """
        self._check_given(pipeline_kwargs)
        own = self.config.call_arguments()
        arguments = call_defaults(pipeline) | pipeline_kwargs | own
        texts = ["a"] * prompts if isinstance(prompts, int) else prompts
        arguments["prompt"] = [texts] if isinstance(texts, str) else list(texts)
        call = PipelineCall.bind(
            pipeline, type(pipeline).__call__, (), arguments, nonuniform=self.nonuniform_arguments
        )
        return self.plan_call(call, self.num_candidates(call))

    def search(self, call: PipelineCall, progress: Progress | None) -> tuple[Any, SamplerOutput]:
        """Make the call; returns what the pipeline returned, and what was found."""
        return search_in_one_call(self, call, progress)

    def make_sift(self, **state: Any) -> Sift:
        """What watches the steps of one call; `state` are the fields of a `Sift`."""
        return Sift(**state)

    def solver(self, call: PipelineCall) -> AbstractContextManager[None]:
        """A block that changes how the scheduler steps, for one call; by default it does not."""
        return nullcontext()

    def preview_decoder(self, pipe: Any) -> Any:
        """The tiny decoder of early estimates, or None for the pipeline's own VAE."""
        spec = getattr(self.config, "preview_decoder", None)
        return None if spec is None else load_preview_decoder(pipe, spec)

    def num_candidates(self, call: PipelineCall) -> int:
        """Candidates per prompt: as configured, or as many as the budget allows."""
        if self.config.budget is None:
            return self.config.num_candidates or max(DEFAULT_CANDIDATES, self.config.num_outputs)
        steps = count_steps(call)
        return largest_search(
            self.checkpoints(steps),
            steps,
            self.config.num_outputs,
            self._unit_costs(call),
            self.config.budget,
        )

    def plan_call(self, call: PipelineCall, num_candidates: int) -> Plan:
        """The plan of one pipeline call with `num_candidates` per prompt."""
        steps, rows = count_steps(call), guidance_rows(call.pipe, call.arguments)
        checkpoints = self.checkpoints(steps)
        if checkpoints and self.reward is not None:
            check_scheduler(call.pipe.scheduler)
        outputs = self.config.num_outputs if self.reward is not None else num_candidates
        if outputs > num_candidates:
            raise ConfigError(
                f"{outputs} outputs were asked for but there are {num_candidates} candidates; "
                "raise the number of candidates."
            )
        stages = plan_stages(checkpoints, steps, num_candidates, outputs)
        prompts = len(call.prompts)
        scorer = Scorer(self.reward)
        judged = num_scored(stages) * prompts if scorer.names else 0
        early = num_early_scored(stages) * prompts if scorer.names else 0
        is_tiny = early > 0 and self.preview_decoder(call.pipe) is not None
        together = min(rows, max(family_of_pipeline(call.pipe).groups))
        per_forward = num_candidates * prompts * together
        return Plan(
            num_candidates=num_candidates,
            num_prompts=prompts,
            num_steps=steps,
            guidance_rows=rows,
            peak_rows=min(per_forward, self.config.max_rows or per_forward),
            stages=stages,
            cost=Cost(
                nfe=round(denoising_steps(stages) * self.rows_per_step(call)) * prompts,
                denoiser_calls=None,
                decodes=judged - early * is_tiny + outputs * prompts,
                preview_decodes=early * is_tiny,
                reward_calls=dict.fromkeys(scorer.names, judged),
            ),
        )

    def rows_per_step(self, call: PipelineCall) -> float:
        """Denoiser rows of a candidate per step, on average over the loop."""
        return guidance_rows(call.pipe, call.arguments)

    def _check_given(self, given: Mapping[str, Any]) -> None:
        for name in self.config.call_arguments().keys() & given.keys():
            raise ConfigError(
                f"`{name}` is given both as an option of {self.name} and for the pipeline's call; "
                "give it once."
            )

    def _unit_costs(self, call: PipelineCall) -> UnitCosts:
        if self.config.budget_unit == "nfe":
            return UnitCosts(step=self.rows_per_step(call))
        from samplers.diffusion.unit_costs import measure_unit_costs

        decoder = self.preview_decoder(call.pipe)
        return measure_unit_costs(call, self.reward, self.config.budget_unit, decoder)


def count_steps(call: PipelineCall) -> int:
    """Denoiser calls per candidate and guidance row: the length of the scheduler's loop."""
    arguments = call.arguments
    if hasattr(call.pipe, "count_steps"):
        # A pipeline of ours whose arguments say more than the scheduler knows.
        return int(call.pipe.count_steps(arguments))
    custom = arguments.get("timesteps") or arguments.get("sigmas")
    if custom is not None:
        return len(custom)
    # A copy: planning must not disturb a scheduler that is in use.
    scheduler = copy.deepcopy(call.pipe.scheduler)
    # The amount of dynamic shift moves the timesteps but not their number.
    extra = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(arguments["num_inference_steps"], **extra)
    return len(scheduler.timesteps)
