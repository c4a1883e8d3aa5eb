"""Rounds of neighbours around the best noises found so far: what the local searches share.

A first search finishes some candidates. Then, round after round, each pivot (the best noises) gets
neighbours on its sphere, which are denoised and judged; the best of a pivot and its neighbours is
the next pivot. The score of a pivot is remembered, never made again.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732 (zero-order search).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gensift.config import option
from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.pipelines.loading import call_defaults
from gensift.randomness import candidate_seed, make_generators
from gensift.trace import PromptTrace, Trace
from samplers.diffusion.attach import PipelineCall, search_in_one_call
from samplers.diffusion.local_search_state import LocalSearchState, Proposal
from samplers.diffusion.noise import (
    check_noise_decides,
    gaussian,
    initial_noise,
    neighbour,
    refined,
)
from samplers.diffusion.outputs import join_rows, split_rows
from samplers.diffusion.schedule import (
    Checkpoint,
    denoising_steps,
    largest_count,
    num_scored,
    plan_stages,
    search_cost,
)
from samplers.diffusion.search import (
    DEFAULT_CANDIDATES,
    DiffusionSearch,
    Plan,
    SearchConfig,
    count_steps,
)
from samplers.output import Progress, SamplerOutput


@dataclass(frozen=True, kw_only=True)
class RefinementConfig(SearchConfig):
    """Options of the searches that refine noises."""

    rounds: int = option(4, minimum=0, help="rounds of neighbours after the first search")
    neighbours: int = option(4, minimum=1, help="neighbours of each refined noise per round")
    similarity: float = option(
        0.95, minimum=0, maximum=1, help="cosine between a noise and its neighbours"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.similarity == 1:
            yield "`similarity` 1 makes each neighbour the noise itself; give less, such as 0.95"


class Refinement(DiffusionSearch):
    """Base of the searches that refine noises; subclasses say how the rounds are searched."""

    config_class: ClassVar[type[SearchConfig]] = RefinementConfig
    is_reproducible: ClassVar[bool] = False
    config: RefinementConfig

    def __init__(self, reward: Any, config: SearchConfig | None = None, **options: Any) -> None:
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
    def first_search(self) -> DiffusionSearch:
        """What finds the noises to refine; returns at least `num_finished` candidates."""

    @abstractmethod
    def round_search(self) -> DiffusionSearch:
        """What searches among the neighbours of a round."""

    @property
    def num_finished(self) -> int:
        """Candidates that the first search must finish: those refined, those returned."""
        return max(self.num_pivots, self.config.num_outputs)

    @property
    def round_size(self) -> int:
        """New candidates per prompt and round."""
        return self.num_pivots * self.config.neighbours

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """Where the first search prunes."""
        return self.first_search().checkpoints(num_steps)

    def num_candidates(self, call: PipelineCall) -> int:
        """Candidates of the first search: as configured, or as the budget allows after all rounds.

        The rounds are fixed work, so they are paid for first.
        """
        if self.config.budget is None:
            return self.config.num_candidates or max(DEFAULT_CANDIDATES, self.num_finished)
        steps, unit_costs = count_steps(call), self._unit_costs(call)
        search = self.round_search()
        stages = plan_stages(
            search.checkpoints(steps), steps, self.round_size, search.config.num_outputs
        )
        rounds = self.config.rounds * search_cost(stages, unit_costs)
        points = self.checkpoints(steps)

        def cost(count: int) -> float:
            first = plan_stages(points, steps, count, self.num_finished)
            return rounds + search_cost(first, unit_costs)

        return largest_count(cost, self.num_finished, self.config.budget)

    def plan_call(self, call: PipelineCall, num_candidates: int) -> Plan:
        """The plan of the first search and of all rounds, each a pipeline call of its own."""
        check_noise_decides(call)
        if num_candidates < self.num_finished:
            raise ConfigError(
                f"{self.num_finished} candidates are to be refined or returned but there are "
                f"{num_candidates}; raise the number of candidates."
            )
        first, again = self._plans(call, num_candidates)
        rounds = self.config.rounds
        plans = [first] + [again] * rounds
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

    def _plans(self, call: PipelineCall, num_candidates: int) -> tuple[Plan, Plan]:
        return (
            self.first_search().plan_call(call, num_candidates),
            self.round_search().plan_call(call, self.round_size),
        )

    def search(self, call: PipelineCall, progress: Progress | None) -> tuple[Any, SamplerOutput]:
        """Make the first call and one more per round; returns the best of all of them."""
        check_noise_decides(call)
        plans = self._plans(call, len(call.seeds[0]))
        told = None
        if progress is not None:
            told = RoundProgress(progress, [plans[0]] + [plans[1]] * self.config.rounds)
        first = self.first_search()
        first.on_stage = self.on_stage
        output, found = search_in_one_call(first, call, told)
        states = self._start(output, found)
        cost = found.cost
        if self.config.rounds:
            _remember_noises(states, initial_noise(call), len(call.seeds[0]))
        for number in range(1, self.config.rounds + 1):
            if told is not None:
                told.next_round()
            output, found = self._round(call, states, number, told)
            cost = cost + found.cost
        return _finished(states, output, cost)

    def _start(self, output: Any, found: SamplerOutput) -> list[LocalSearchState]:
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
    ) -> tuple[Any, SamplerOutput]:
        proposals = [
            self._propose(state, group[0], number)
            for state, group in zip(states, call.seeds, strict=True)
        ]
        latents = self._latents(call, states, proposals)
        seeds = [proposal.seed for group in proposals for proposal in group]
        asked = call.drawing_from(make_generators(seeds), self.round_size)
        asked = replace(asked, arguments=asked.arguments | {"latents": latents})
        incumbents = [state.incumbents() for state in states]
        output, found = search_in_one_call(self.round_search(), asked, progress, incumbents)
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
                state=place // size,
                seed=candidate_seed(seed, number, place),
                parent=None
                if self.restarts and place // size in state.stagnated
                else state.pivots[place // size],
            )
            for place in range(self.round_size)
        ]

    def _latents(
        self, call: PipelineCall, states: list[LocalSearchState], proposals: list[list[Proposal]]
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
        pipeline: Any,
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
        arguments = call_defaults(pipeline) | pipeline_kwargs | {"prompt": [trace.prompt]}
        call = PipelineCall.bind(pipeline, type(pipeline).__call__, (), arguments)
        (noise,) = initial_noise(call.drawing_from(make_generators([trace.seeds[first]]), 1))
        seeds = [trace.seeds[index] for index in others]
        return refined(noise, seeds, self.config.similarity).unsqueeze(0)


class RoundProgress:
    """Joins the reports of several calls into one that runs over all rounds."""

    def __init__(self, progress: Progress, plans: list[Plan]) -> None:
        self._progress = progress
        steps = sum(denoising_steps(plan.stages) * plan.num_prompts for plan in plans)
        judged = sum(num_scored(plan.stages) * plan.num_prompts for plan in plans)
        self._totals = {"denoise": steps, "decode": judged, "reward": judged}
        self._before: dict[str, int] = {}
        self._now: dict[str, int] = {}

    def __call__(self, event: str, done: int, total: int) -> None:
        """Take a report of one call; `total` is that call's."""
        self._now[event] = done
        done += self._before.get(event, 0)
        self._progress(event, done, self._totals.get(event, total))

    def next_round(self) -> None:
        """Count what was reported as done."""
        self._before = {
            event: self._before.get(event, 0) + self._now.get(event, 0)
            for event in self._before | self._now
        }
        self._now = {}


def _remember_noises(states: list[LocalSearchState], noises: Tensor, per_prompt: int) -> None:
    for index, state in enumerate(states):
        state.noises = {pivot: noises[index * per_prompt + pivot].clone() for pivot in state.pivots}


def _finished(states: list[LocalSearchState], output: Any, cost: Cost) -> tuple[Any, SamplerOutput]:
    rows = [row for state in states for row in state.best_rows()]
    joined = join_rows(output, rows)
    samples = joined[0] if isinstance(joined, tuple) else next(iter(joined.values()))
    results, start = [], 0
    for state in states:
        end = start + len(state.elite)
        results.append(state.result(samples[start:end]))
        start = end
    trace = Trace(prompts=tuple(state.trace() for state in states))
    return joined, SamplerOutput(results=tuple(results), cost=cost, trace=trace)
