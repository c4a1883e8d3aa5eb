"""Search over paths: branch half-denoised candidates by re-noising them, keep the best, go on.

Source: Ma et al., "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
arXiv 2501.09732. Noise is added from the current latents by the exact forward transition. All
paths and branches run in one pipeline call, whose loop goes down and up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gensift.errors import ConfigError
from gensift.protocols import Pipeline, PipelineOutput
from gensift.randomness import candidate_seed, make_generators
from gensift.trace import PromptTrace
from samplers.diffusion.cached import refuse_cache
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import SearchOverPathsConfig
from samplers.diffusion.noise import check_noise_decides, gaussian
from samplers.diffusion.path_trace import Branchings, numbered, numbered_stage
from samplers.diffusion.planning import CallShape
from samplers.diffusion.renoise_schedule import (
    RenoiseSchedule,
    Segment,
    check_memoryless,
    renoise_segments,
    renoised_loop,
    segment_ends,
)
from samplers.diffusion.schedule import Checkpoint
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.strategy import Selection, SelectionStrategy, StageScores
from samplers.output import OnStage, PlannedStage, Progress, SamplerOutput
from samplers.scoring import RewardSpec

DEFAULT_PATHS = 4


class Branching(SelectionStrategy):
    """Chooses the best branches as the next paths, and branches these by adding noise.

    A path holds `branches` neighbouring places; the first segment needs one of them only.

    Attributes:
        sources: per round, for each place the place that it was made from.
    """

    def __init__(
        self,
        schedule: RenoiseSchedule,
        segments: Sequence[Segment],
        branches: int,
        seeds: Sequence[Sequence[int]],
    ) -> None:
        """Per round and place `seeds` are those of the added noise."""
        self.sources: list[list[int]] = []
        self._schedule, self._segments, self._branches = schedule, segments, branches
        self._seeds = seeds

    def first(self, num_candidates: int) -> Iterable[int]:
        """The first place of each path."""
        return range(0, num_candidates, self._branches)

    def select(self, scores: StageScores) -> Selection:
        """See `SelectionStrategy`."""
        number, size = len(self.sources), len(self._seeds[0])
        paths = size // self._branches
        best = scores.ranked()[:paths] if scores.combined else list(scores.candidates)
        # Fewer than all paths have a finite score only when a reward failed on the rest.
        chosen = sorted(best)
        sources = [chosen[path % len(chosen)] for path in range(paths)]
        parents = dict(enumerate(source for source in sources for _ in range(self._branches)))
        step = self._branches if number == 0 else 1
        self.sources.append([parent // step for parent in parents.values()])
        last, begin = self._segments[number].end - 1, self._segments[number + 1].start
        if begin > last:
            return Selection(parents)

        def add_noise(latents: Tensor) -> Tensor:
            noise = torch.stack([gaussian(latents.shape[1:], s) for s in self._seeds[number]])
            return self._schedule.renoised(latents, last, begin, noise)

        return Selection(parents, add_noise)


class SearchOverPaths(DiffusionSearch[SearchOverPathsConfig]):
    """Branches candidates on the way down, at noise levels where much can still change."""

    name: ClassVar[str] = "search-over-paths"
    config_class: ClassVar[type[SearchOverPathsConfig]] = SearchOverPathsConfig
    is_reproducible: ClassVar[bool] = False

    def __init__(
        self, reward: RewardSpec, config: SearchOverPathsConfig | None = None, **options: Any
    ) -> None:
        """See `SamplerBase`; there must be a reward."""
        super().__init__(reward, config, **options)
        if self.reward is None:
            raise ConfigError(f"{self.name} chooses paths by their reward; give a reward.")

    @property
    def default_candidates(self) -> int:
        """Paths per prompt."""
        return DEFAULT_PATHS

    def segments(self, num_steps: int) -> tuple[Segment, ...]:
        """The way through a loop of `num_steps`, down and up again.

        Raises:
            ConfigError: the loop is a single step.
        """
        if num_steps < 2:
            raise ConfigError(
                f"A loop of {num_steps} step has no middle to branch at; use at least 2 steps."
            )
        config = self.config
        return renoise_segments(num_steps, config.start, config.renoise, config.denoise)

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The end of each segment but the last; nothing is scored before the first branching."""
        ends = segment_ends(self.segments(num_steps))[:-1]
        share = 1 / self.config.branches
        is_scored = self.reward is not None
        return (
            Checkpoint(ends[0], 1.0, is_scored=False),
            *(Checkpoint(end, share, is_scored=is_scored) for end in ends[1:]),
        )

    def stages(self, num_steps: int, num_candidates: int) -> tuple[PlannedStage, ...]:
        """One stage per round; the steps are those of the whole way."""
        ends = segment_ends(self.segments(num_steps))
        size = num_candidates * self.config.branches
        kept = [num_candidates] * (len(ends) - 2) + [self.config.num_outputs]
        return tuple(
            PlannedStage(end, ends[-1] + 1, size, count, round=number)
            for number, (end, count) in enumerate(zip(ends[1:], kept, strict=True), 1)
        )

    def shape(self, call: PipelineCall, num_candidates: int) -> CallShape:
        """See `DiffusionSearch`; branches wait for the first branching without being computed."""
        size = num_candidates * self.config.branches
        waiting = len(self.segments(call.num_steps)[0]) * (size - num_candidates)
        shape = super().shape(call, num_candidates)
        return replace(shape, num_rows=size, idle_steps=waiting)

    def check(self, call: PipelineCall, num_candidates: int) -> None:
        """See `DiffusionSearch`; the solver must be able to walk a stretch again."""
        check_memoryless(call.bound.scheduler)
        check_noise_decides(call)
        if self.config.num_outputs > num_candidates:
            raise ConfigError(
                f"{self.config.num_outputs} outputs were asked for but there are "
                f"{num_candidates} paths; raise the number of candidates."
            )

    def search(
        self, call: PipelineCall, progress: Progress | None, **changes: Any
    ) -> tuple[PipelineOutput, SamplerOutput]:
        """Make one call with all branches of all paths."""
        refuse_cache(call.bound, self.name)
        paths = len(call.seeds[0])
        self.check(call, paths)
        rounds = range(1, len(self.segments(call.num_steps)))
        size = paths * self.config.branches
        seeds = [
            [[candidate_seed(group[0], number, slot) for slot in range(size)] for number in rounds]
            for group in call.seeds
        ]
        return self._run(call, seeds, progress)

    def _run(
        self,
        call: PipelineCall,
        seeds: Sequence[Sequence[Sequence[int]]],
        progress: Progress | None,
    ) -> tuple[PipelineOutput, SamplerOutput]:
        """Make the call; per prompt, round and slot `seeds` are those of the added noise."""
        segments, branches = self.segments(call.num_steps), self.config.branches
        shape = self.shape(call, len(call.seeds[0]))
        with renoised_loop(call.bound.scheduler, segments) as schedule:
            strategies = [Branching(schedule, segments, branches, own) for own in seeds]
            output, found = super().search(
                schedule.following(self._with_branches(call)),
                progress,
                shape=shape,
                strategies=strategies,
                on_stage=self._numbering(segment_ends(segments), shape.num_rows),
            )
        made = [
            Branchings(own, strategy.sources)
            for own, strategy in zip(seeds, strategies, strict=True)
        ]
        return output, numbered(found, made, branches)

    def _numbering(self, ends: Sequence[int], size: int) -> OnStage | None:
        """What is shown the stages, given such in which candidates are slots of a round."""
        show = self.on_stage
        if show is None:
            return None
        return lambda index, stage: show(
            index,
            numbered_stage(stage, ends.index(stage.step_index), size, self.config.branches),
        )

    def _with_branches(self, call: PipelineCall) -> PipelineCall:
        """The call with a row per branch; the first of each path draws the path's noise."""
        generators = []
        for row, generator in enumerate(call.arguments["generator"]):
            # The others wait for the first branching, so what they draw is never seen.
            spare = [candidate_seed(row, 0, branch) for branch in range(1, self.config.branches)]
            generators += [generator, *make_generators(spare, generator.device)]
        return call.drawing_from(generators, len(call.seeds[0]) * self.config.branches)

    def replay(
        self,
        pipeline: Pipeline,
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
        call = self.bind_traced(pipeline, trace, pipeline_kwargs)
        call = call.drawing_from(make_generators([trace.seeds[first]]), 1)
        alone = type(self)(
            self.reward,
            replace(self.config, num_candidates=1, num_outputs=1, branches=1, budget=None),
        )
        # Nothing is left to choose.
        alone.reward = None
        rounds = len(self.segments(call.num_steps)) - 1
        if len(others) != rounds:
            raise ConfigError(
                f"Candidate {chosen} came from {len(others)} round(s) of {rounds}, so it was "
                "not finished; name one of the last round."
            )
        return alone._run(call, [[[trace.seeds[index]] for index in others]], None)[0]
