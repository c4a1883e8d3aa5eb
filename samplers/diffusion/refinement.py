"""Rounds of neighbours around the best noises found so far: what the local searches share.

A first search finishes some candidates. Then, round after round, each pivot (the best noises) gets
neighbours on its sphere, which are denoised and scored; the best of a pivot and its neighbours is
the next pivot. The score of a pivot is remembered, never made again.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732 (zero-order search).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor

from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.protocols import Pipeline, PipelineOutput
from gensift.randomness import candidate_seed, make_generators
from gensift.trace import PromptTrace, Trace
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import RefinementConfig
from samplers.diffusion.engine import samples_of
from samplers.diffusion.local_search_state import LocalSearchState, Proposal
from samplers.diffusion.noise import (
    check_noise_decides,
    gaussian,
    initial_noise,
    neighbour,
    refined,
)
from samplers.diffusion.outputs import join_rows, split_rows
from samplers.diffusion.planning import DiffusionPlan, planned_work
from samplers.diffusion.progress import RoundProgress
from samplers.diffusion.schedule import Checkpoint, UnitCosts
from samplers.diffusion.search import DiffusionSearch
from samplers.output import Progress, SamplerOutput
from samplers.scoring import RewardSpec

AnySearch: TypeAlias = DiffusionSearch[Any]
RefinementConfigT = TypeVar("RefinementConfigT", bound=RefinementConfig)


class Refinement(DiffusionSearch[RefinementConfigT]):
    """Base of the searches that refine noises; subclasses say how the rounds are searched."""

    is_reproducible: ClassVar[bool] = False

    def __init__(
        self, reward: RewardSpec, config: RefinementConfigT | None = None, **options: Any
    ) -> None:
        """See `SamplerBase`; there must be a reward."""
        super().__init__(reward, config, **options)
        if self.reward is None:
            raise ConfigError(f"{self.name} moves towards higher rewards; give a reward.")

    @property
    def num_pivots(self) -> int:
        """Noises refined per prompt."""
        return 1

    @property
    def restarts(self) -> bool:
        """Whether a pivot that no neighbour beats gives way to fresh noises."""
        return False

    @abstractmethod
    def first_search(self) -> AnySearch:
        """What finds the noises to refine; returns at least `num_finished` candidates."""

    @abstractmethod
    def round_search(self) -> AnySearch:
        """What searches among the neighbours of a round."""

    @property
    def num_finished(self) -> int:
        """Candidates that the first search must finish: those refined, those returned."""
        return max(self.num_pivots, self.config.num_outputs)

    @property
    def least_candidates(self) -> int:
        """As many as the first search must finish."""
        return self.num_finished

    @property
    def round_size(self) -> int:
        """New candidates per prompt and round."""
        return self.num_pivots * self.config.neighbours

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """Where the first search prunes."""
        return self.first_search().checkpoints(num_steps)

    def cost_of(self, call: PipelineCall, costs: UnitCosts) -> Callable[[int], float]:
        """What the first search costs, and all rounds, which are fixed work."""
        first = self.first_search().cost_of(call, costs)
        rounds = self.config.rounds * self.round_search().cost_of(call, costs)(self.round_size)
        return lambda count: rounds + first(count)

    def plan_call(self, call: PipelineCall, num_candidates: int) -> DiffusionPlan:
        """The plan of the first search and of all rounds, each a pipeline call of its own."""
        check_noise_decides(call)
        if num_candidates < self.num_finished:
            raise ConfigError(
                f"{self.num_finished} candidates are to be refined or returned but there are "
                f"{num_candidates}; raise the number of candidates."
            )
        first = self.first_search().plan_call(call, num_candidates)
        again = self.round_search().plan_call(call, self.round_size)
        plans = [first] + [again] * self.config.rounds
        stages = [
            replace(stage, round=number)
            for number, plan in enumerate(plans)
            for stage in plan.stages
        ]
        stages[-1] = replace(stages[-1], kept=self.config.num_outputs)
        return replace(
            first,
            peak_rows=max(plan.peak_rows for plan in plans),
            stages=tuple(stages),
            cost=sum((plan.cost for plan in plans), Cost()),
        )

    def search(
        self, call: PipelineCall, progress: Progress | None, **changes: Any
    ) -> tuple[PipelineOutput, SamplerOutput]:
        """Make the first call and one more per round; returns the best of all of them."""
        check_noise_decides(call)
        reported = self._round_progress(call, progress)
        first = self.first_search()
        first.on_stage = self.on_stage
        output, found = first.search(call, reported, **changes)
        states = self._start(output, found)
        cost = found.cost
        if self.config.rounds:
            _remember_noises(states, initial_noise(call), len(call.seeds[0]))
        for number in range(1, self.config.rounds + 1):
            if reported is not None:
                reported.next_round()
            output, found = self._round(call, states, number, reported)
            cost = cost + found.cost
        return _finished(states, output, cost)

    def _round_progress(
        self, call: PipelineCall, progress: Progress | None
    ) -> RoundProgress | None:
        if progress is None:
            return None
        prompts = len(call.prompts)
        first = planned_work(self.first_search().shape(call, len(call.seeds[0])), prompts)
        again = planned_work(self.round_search().shape(call, self.round_size), prompts)
        rounds = self.config.rounds
        return RoundProgress(progress, {name: first[name] + rounds * again[name] for name in first})

    def _start(self, output: PipelineOutput, found: SamplerOutput) -> list[LocalSearchState]:
        rows, states = split_rows(output), []
        for trace, result in zip(found.trace.prompts, found.results, strict=True):
            mine, rows = rows[: len(result.seeds)], rows[len(result.seeds) :]
            state = LocalSearchState(self.reward, trace, self.num_pivots, self.config.num_outputs)
            state.begin(mine, result)
            states.append(state)
        return states

    def _round(
        self,
        call: PipelineCall,
        states: list[LocalSearchState],
        number: int,
        progress: Progress | None,
    ) -> tuple[PipelineOutput, SamplerOutput]:
        proposals = [
            self._propose(state, group[0], number)
            for state, group in zip(states, call.seeds, strict=True)
        ]
        latents = self._latents(call, states, proposals)
        seeds = [proposal.seed for group in proposals for proposal in group]
        asked = call.drawing_from(make_generators(seeds), self.round_size)
        asked = replace(asked, arguments=asked.arguments | {"latents": latents})
        incumbents = [state.incumbents() for state in states]
        output, found = self.round_search().search(asked, progress, incumbents=incumbents)
        rows = split_rows(output)
        for index, state in enumerate(states):
            start = index * self.round_size
            result, trace = found.results[index], found.trace.prompts[index]
            mine, rows = rows[: len(result.seeds)], rows[len(result.seeds) :]
            group = latents[start : start + self.round_size]
            state.advance(number, proposals[index], group, trace.stages, mine)
            if self.on_stage is not None:
                for stage in state.stages_of(number):
                    self.on_stage(index, stage)
        return output, found

    def _propose(self, state: LocalSearchState, seed: int, number: int) -> list[Proposal]:
        """The new candidates of a round; their seeds depend on the prompt's first seed alone."""
        size = self.config.neighbours
        return [
            Proposal(
                line=place // size,
                seed=candidate_seed(seed, number, place),
                parent=None
                if self.restarts and place // size in state.stagnated
                else state.pivots[place // size],
            )
            for place in range(self.round_size)
        ]

    def _latents(
        self,
        call: PipelineCall,
        states: list[LocalSearchState],
        proposals: list[list[Proposal]],
    ) -> Tensor:
        """Noises of all proposals, prompt-major `(rows, ...)`."""
        flat = [(state, p) for state, group in zip(states, proposals, strict=True) for p in group]
        rows = []
        fresh: Tensor | None = None
        for place, (state, proposal) in enumerate(flat):
            if proposal.parent is not None:
                pivot = state.noises[proposal.parent]
                direction = gaussian(pivot.shape, proposal.seed)
                rows.append(neighbour(pivot, direction, self.config.similarity))
                continue
            if fresh is None:
                generators = make_generators([p.seed for _, p in flat])
                fresh = initial_noise(call.drawing_from(generators, self.round_size))
            rows.append(fresh[place])
        return torch.stack(rows)

    def initial_latents(
        self,
        pipeline: Pipeline,
        trace: PromptTrace,
        candidate: int | None = None,
        **pipeline_kwargs: Any,
    ) -> Tensor:
        """The noise of a candidate, computed again from the seeds in the trace.

        latents = sampler.initial_latents(pipe, result.trace.prompts[0])
        same = pipe("a red circle", latents=latents).images[0]

        Args:
            pipeline: the pipeline searched on.
            trace: of the prompt.
            candidate: its index in the trace; the winner by default.
            pipeline_kwargs: of the search's call (height, width, number of steps).

        Returns:
            `(1, ...)`, as the pipeline takes them.
        """
        chosen = trace.winner if candidate is None else candidate
        if chosen is None:
            raise ConfigError("The trace has no winner; name a `candidate` of it.")
        first, *others = trace.ancestry(chosen)
        call = self.bind_traced(pipeline, trace, pipeline_kwargs)
        (noise,) = initial_noise(call.drawing_from(make_generators([trace.seeds[first]]), 1))
        seeds = [trace.seeds[index] for index in others]
        return refined(noise, seeds, self.config.similarity).unsqueeze(0)


def _remember_noises(states: list[LocalSearchState], noises: Tensor, per_prompt: int) -> None:
    for index, state in enumerate(states):
        start = index * per_prompt
        state.noises = {pivot: noises[start + pivot].clone() for pivot in state.pivots}


def _finished(
    states: Sequence[LocalSearchState], output: PipelineOutput, cost: Cost
) -> tuple[PipelineOutput, SamplerOutput]:
    joined = join_rows(output, [row for state in states for row in state.best_rows()])
    samples = samples_of(joined)
    results, start = [], 0
    for state in states:
        end = start + len(state.elite)
        results.append(state.result(samples[start:end]))
        start = end
    trace = Trace(prompts=tuple(state.trace() for state in states))
    return joined, SamplerOutput(results=tuple(results), cost=cost, trace=trace)
