"""Search over paths: branch half-denoised candidates by re-noising them, keep the best, go on.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732. Noise is added from the current latents by the exact forward transition. All
paths and branches run in one pipeline call, whose loop is wound up and down.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gensift.config import option
from gensift.cost import Cost
from gensift.denoising.modules import family_of_pipeline
from gensift.denoising.observer import StepEvent
from gensift.errors import ConfigError
from gensift.pipelines.loading import call_defaults
from gensift.randomness import candidate_seed, make_generators
from gensift.trace import PromptTrace, Trace
from samplers.diffusion.attach import PipelineCall, make_sift, run_sift
from samplers.diffusion.cached import refuse_cache
from samplers.diffusion.guidance import guidance_rows
from samplers.diffusion.noise import check_noise_decides, gaussian
from samplers.diffusion.renoise_schedule import (
    RenoiseSchedule,
    Segment,
    check_memoryless,
    renoise_segments,
    renoised_loop,
)
from samplers.diffusion.schedule import largest_count
from samplers.diffusion.search import (
    DiffusionSearch,
    EarlySearchConfig,
    Plan,
    SearchConfig,
    count_steps,
)
from samplers.diffusion.sift import Sift
from samplers.output import PlannedStage, Progress, PromptResult, SamplerOutput
from samplers.scoring import Scorer

DEFAULT_PATHS = 4


@dataclass(frozen=True, kw_only=True)
class SearchOverPathsConfig(EarlySearchConfig):
    """Options of the search over paths; shares are those of the plain denoising loop."""

    num_candidates: int | None = option(
        None, minimum=1, help="paths per prompt; default 4, or what the budget allows"
    )
    branches: int = option(4, minimum=1, help="re-noised copies of each path per round")
    start: float = option(
        0.4, minimum=0, maximum=1, help="share of the loop before the first branching"
    )
    renoise: float = option(
        0.2, minimum=0, maximum=1, help="share of the loop that each branching goes back up"
    )
    denoise: float = option(
        0.4, minimum=0, maximum=1, help="share of the loop that each round goes down"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.denoise <= self.renoise:
            yield (
                f"`denoise` {self.denoise} does not exceed `renoise` {self.renoise}, so the paths "
                "would not come down; give more"
            )


# Per round, prompt and slot: the seed of the noise that makes the branch.
BranchSeeds = Sequence[Sequence[Sequence[int]]]


@dataclass(kw_only=True)
class PathSift(Sift):
    """The state of a search over paths: row = (prompt * paths + path) * branches + branch.

    Attributes:
        legs: of the winding loop.
        branches: rows per path.
        winding: the scheduler's levels and place.
        branch_seeds: of each round.
        sources: per round and prompt, for each slot the slot of the round before that it was made
            from (before the first round: the path).
    """

    segments: Sequence[Segment]
    branches: int
    renoising: RenoiseSchedule
    branch_seeds: BranchSeeds
    sources: list[list[list[int]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.live.prune(range(0, self.live.num_rows, self.branches))
        ends, steps = [], 0
        for segment in self.segments:
            steps += len(segment)
            ends.append(steps - 1)
        self._ends = {step_index: number for number, step_index in enumerate(ends)}

    def on_step(self, event: StepEvent) -> Tensor | None:
        """Observer of the scheduler: at the end of a leg choose the paths and branch them."""
        self.renoising.advance(event.step_index)
        if event.is_last or event.step_index not in self._ends:
            return super().on_step(event)
        self._report("denoise", len(self.live.alive))
        self._close_segment("denoise", event.latents)
        number = self._ends[event.step_index]
        if number == 0:
            kept = [self._rows(self.live.alive, index) for index in range(len(self.prompts))]
        else:
            order = sorted(self._round(event, 1 / self.branches))
            self._show_stages()
            kept = [self._rows(order, index) for index in range(len(self.prompts))]
        latents = self._branched(event.latents, kept, number)
        self._mark = time.perf_counter()
        return latents

    def _branched(self, latents: Tensor, kept: list[list[int]], number: int) -> Tensor:
        """The latents of round `number` + 1, `(rows, ...)`, all rows alive again."""
        sources: list[int] = []
        for rows in kept:
            # Fewer than all paths have a finite score only when a reward failed on the rest.
            paths = [rows[path % len(rows)] for path in range(self.num_candidates // self.branches)]
            sources += [row for row in paths for _ in range(self.branches)]
        self.live.branch(dict(enumerate(sources)))
        size = self.branches if number == 0 else 1
        self.sources.append(
            [
                [
                    row % self.num_candidates // size
                    for row in sources[start:][: self.num_candidates]
                ]
                for start in range(0, len(sources), self.num_candidates)
            ]
        )
        chosen = latents.index_select(0, torch.tensor(sources, device=latents.device))
        last, begin = self.segments[number].end - 1, self.segments[number + 1].start
        if begin > last:
            return chosen
        seeds = [seed for group in self.branch_seeds[number] for seed in group]
        noise = torch.stack([gaussian(latents.shape[1:], seed) for seed in seeds])
        return self.renoising.renoised(chosen, last, begin, noise)

    def _total(self, event: str) -> int:
        rows = self.live.num_rows
        if event != "denoise":
            return rows * (len(self.segments) - 1)
        return rows // self.branches * len(self.segments[0]) + rows * sum(
            map(len, self.segments[1:])
        )

    def trace(self) -> Trace:
        """All rounds; candidates are numbered on from the paths, each round anew."""
        found = super().trace().prompts
        return Trace(prompts=tuple(self._numbered(index, p) for index, p in enumerate(found)))

    def _numbered(self, index: int, trace: PromptTrace) -> PromptTrace:
        size = self.num_candidates
        paths = size // self.branches
        seeds = list(trace.seeds[:: self.branches])
        parents: list[int | None] = [None] * paths
        for number, sources in enumerate(self.sources):
            before = 0 if number == 0 else paths + (number - 1) * size
            parents += [before + source for source in sources[index]]
            seeds += self.branch_seeds[number][index]
        stages = []
        for number, stage in enumerate(trace.stages):
            base = paths + number * size
            stages.append(
                replace(
                    stage,
                    round=number + 1,
                    alive=tuple(base + slot for slot in stage.alive),
                    kept=tuple(base + slot for slot in stage.kept),
                    previews={base + slot: image for slot, image in stage.previews.items()},
                )
            )
        return replace(trace, seeds=tuple(seeds), parents=tuple(parents), stages=tuple(stages))

    def results(self, samples: Sequence[Any]) -> tuple[PromptResult, ...]:
        """As those of any search; a sample's seed is that of its last noise."""
        results = []
        for index, result in enumerate(super().results(samples)):
            slots = [row % self.num_candidates for row in self._rows(self.order, index)]
            seeds = tuple(self.branch_seeds[-1][index][slot] for slot in slots)
            results.append(replace(result, seeds=seeds, first_reward=None))
        return tuple(results)


class SearchOverPaths(DiffusionSearch):
    """Branches candidates on the way down, at noise levels where much can still change."""

    name: ClassVar[str] = "search-over-paths"
    config_class: ClassVar[type[SearchConfig]] = SearchOverPathsConfig
    is_reproducible: ClassVar[bool] = False
    config: SearchOverPathsConfig

    def __init__(self, reward: Any, config: SearchConfig | None = None, **options: Any) -> None:
        super().__init__(reward, config, **options)
        if self.reward is None:
            raise ConfigError(f"{self.name} chooses paths by their reward; give a reward.")

    def segments(self, num_steps: int) -> tuple[Segment, ...]:
        """The winding way through a loop of `num_steps`.

        Raises:
            ConfigError: the loop is a single step.
        """
        if num_steps < 2:
            raise ConfigError(
                f"A loop of {num_steps} step has no middle to branch at; use at least 2 steps."
            )
        config = self.config
        return renoise_segments(num_steps, config.start, config.renoise, config.denoise)

    def num_candidates(self, call: PipelineCall) -> int:
        """Paths per prompt: as configured, or as many as the budget allows."""
        outputs = self.config.num_outputs
        if self.config.budget is None:
            return self.config.num_candidates or max(DEFAULT_PATHS, outputs)
        segments, unit_costs = self.segments(count_steps(call)), self._unit_costs(call)
        rounds, branches = len(segments) - 1, self.config.branches
        steps = len(segments[0]) + branches * sum(map(len, segments[1:]))
        judged = branches * ((rounds - 1) * unit_costs.early_scoring + unit_costs.scoring)
        each = steps * unit_costs.step + judged
        return largest_count(lambda count: count * each, max(1, outputs), self.config.budget)

    def plan_call(self, call: PipelineCall, num_candidates: int) -> Plan:
        """The plan of one pipeline call with `num_candidates` paths per prompt."""
        check_memoryless(call.pipe.scheduler)
        check_noise_decides(call)
        if self.config.num_outputs > num_candidates:
            raise ConfigError(
                f"{self.config.num_outputs} outputs were asked for but there are "
                f"{num_candidates} paths; raise the number of candidates."
            )
        segments, prompts = self.segments(count_steps(call)), len(call.prompts)
        rows, size = guidance_rows(call.pipe, call.arguments), num_candidates * self.config.branches
        stages = self._stages(segments, num_candidates)
        judged, early = len(stages) * size * prompts, (len(stages) - 1) * size * prompts
        is_tiny = early > 0 and self.preview_decoder(call.pipe) is not None
        per_forward = size * prompts * min(rows, max(family_of_pipeline(call.pipe).groups))
        steps = num_candidates * len(segments[0]) + size * sum(map(len, segments[1:]))
        return Plan(
            num_candidates=num_candidates,
            num_prompts=prompts,
            num_steps=stages[-1].num_inference_steps,
            guidance_rows=rows,
            peak_rows=min(per_forward, self.config.max_rows or per_forward),
            stages=stages,
            cost=Cost(
                nfe=steps * rows * prompts,
                denoiser_calls=None,
                decodes=judged - early * is_tiny + self.config.num_outputs * prompts,
                preview_decodes=early * is_tiny,
                reward_calls=dict.fromkeys(Scorer(self.reward).names, judged),
            ),
        )

    def _stages(self, segments: Sequence[Segment], paths: int) -> tuple[PlannedStage, ...]:
        size, length = paths * self.config.branches, sum(map(len, segments))
        stages, done = [], len(segments[0])
        for number, segment in enumerate(segments[1:], 1):
            done += len(segment)
            kept = paths if number < len(segments) - 1 else self.config.num_outputs
            stages.append(PlannedStage(done - 1, length, size, kept, round=number))
        return tuple(stages)

    def search(self, call: PipelineCall, progress: Progress | None) -> tuple[Any, SamplerOutput]:
        """Make one call with all branches of all paths."""
        refuse_cache(call.pipe, self.name)
        paths = len(call.seeds[0])
        stages = self.plan_call(call, paths).stages
        size = paths * self.config.branches
        seeds = [
            [[candidate_seed(g[0], number, slot) for slot in range(size)] for g in call.seeds]
            for number in range(1, len(stages) + 1)
        ]
        return self._run(self._with_branches(call), stages, seeds, progress)

    def _with_branches(self, call: PipelineCall) -> PipelineCall:
        """The call with a row per branch; the first of each path draws the path's noise."""
        generators = []
        for row, generator in enumerate(call.arguments["generator"]):
            # The others wait for the first branching, so what they draw is never seen.
            spare = [candidate_seed(row, 0, branch) for branch in range(1, self.config.branches)]
            generators += [generator, *make_generators(spare, generator.device)]
        return call.drawing_from(generators, len(call.seeds[0]) * self.config.branches)

    def _run(
        self,
        call: PipelineCall,
        stages: Sequence[PlannedStage],
        branch_seeds: BranchSeeds,
        progress: Progress | None,
    ) -> tuple[Any, SamplerOutput]:
        segments = self.segments(count_steps(call))
        with renoised_loop(call.pipe.scheduler, segments) as renoising:
            fields = {"legs": segments, "winding": renoising, "branch_seeds": branch_seeds}
            sift = make_sift(
                PathSift, self, call, stages, (), progress, branches=self.config.branches, **fields
            )
            return run_sift(self, call, sift)

    def replay(
        self,
        pipeline: Any,
        trace: PromptTrace,
        candidate: int | None = None,
        **pipeline_kwargs: Any,
    ) -> Any:
        """Draw a finished candidate again, alone, from the seeds in the trace.

        same = sampler.replay(pipe, result.trace.prompts[0]).images[0]

        Args:
            pipeline: the pipeline searched on.
            trace: of the prompt.
            candidate: its index in the trace; the winner by default.
            pipeline_kwargs: of the search's call.

        Returns:
            What the pipeline returns.
        """
        chosen = trace.winner if candidate is None else candidate
        if chosen is None:
            raise ConfigError("The trace has no winner; name a `candidate` of it.")
        first, *others = trace.ancestry(chosen)
        arguments = call_defaults(pipeline) | pipeline_kwargs | {"prompt": [trace.prompt]}
        call = PipelineCall.bind(pipeline, type(pipeline).__call__, (), arguments)
        call = call.drawing_from(make_generators([trace.seeds[first]]), 1)
        alone = copy.copy(self)
        alone.reward = None
        alone.config = replace(
            self.config, num_candidates=1, num_outputs=1, branches=1, budget=None
        )
        stages = alone.plan_call(call, 1).stages
        if len(others) != len(stages):
            raise ConfigError(
                f"Candidate {chosen} came from {len(others)} round(s) of {len(stages)}, so it was "
                "not finished; name one of the last round."
            )
        seeds = [[[trace.seeds[index]]] for index in others]
        return alone._run(call, stages, seeds, None)[0]
