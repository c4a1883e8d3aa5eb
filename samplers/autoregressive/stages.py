"""The trace of a search: who lived after each scale, what they scored, and who went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gensift.trace import PromptTrace, Stage, Trace
from samplers.autoregressive.candidates import Candidates
from samplers.autoregressive.stage_scoring import CandidateScores
from samplers.output import OnStage


class StageRecorder:
    """Writes down the stages of every prompt as they happen."""

    def __init__(self, candidates: Candidates, on_stage: OnStage | None) -> None:
        """Record `candidates`; `on_stage` is shown each stage."""
        self._candidates = candidates
        self._on_stage = on_stage
        self._stages: list[list[Stage]] = [[] for _ in candidates.populations]

    def record(
        self, index: int, alive: Sequence[int], moves: Mapping[int, int], scores: CandidateScores
    ) -> None:
        """Write down a stage of one prompt.

        Args:
            index: of the prompt.
            alive: places of the candidates that were chosen among, ascending.
            moves: for each place that is filled from now on the place whose state goes on there.
            scores: of those alive.
        """
        state = self._candidates.state
        stage = Stage(
            step_index=self._candidates.scale,
            num_inference_steps=len(state.schedule),
            grid=state.schedule.scales[self._candidates.scale],
            alive=tuple(alive),
            scores={name: tuple(values.tolist()) for name, values in scores.by_reward.items()},
            combined=tuple(scores.combined.tolist()),
            kept=tuple(sorted(set(moves.values()))),
            parents=tuple(moves.get(place) for place in alive),
            is_final=state.is_finished,
            previews={alive[at]: picture for at, picture in enumerate(scores.thumbnails)},
        )
        self._stages[index].append(stage)
        if self._on_stage is not None:
            self._on_stage(index, stage)

    def trace(self) -> Trace:
        """All that was written down."""
        populations = self._candidates.populations
        return Trace(
            prompts=tuple(
                PromptTrace(
                    prompt=population.prompt,
                    prompt_index=index,
                    seeds=tuple(population.seeds),
                    stages=tuple(stages),
                )
                for index, (population, stages) in enumerate(
                    zip(populations, self._stages, strict=True)
                )
            )
        )
