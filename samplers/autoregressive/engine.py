"""The engine of all next-scale searches: draw a scale, let selectors choose, draw the next.

Best-of-N, importance resampling and TTS-VAR differ in the schedule and the selectors they hand in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gensift.cost import Cost, Stopwatch, peak_memory_mib
from gensift.pipelines.next_scale.scales import Scale, ScaleSchedule
from gensift.protocols import CallArguments
from samplers.autoregressive.candidates import Candidates
from samplers.autoregressive.plan import NextScalePlan
from samplers.autoregressive.population import Population
from samplers.autoregressive.progress import ProgressCounts
from samplers.autoregressive.protocol import NextScaleModel
from samplers.autoregressive.results import ranked_result, ranking, unranked_result
from samplers.autoregressive.stage_scoring import StageScorer
from samplers.autoregressive.stages import StageRecorder
from samplers.autoregressive.view import ScaleView, Selection, Selector
from samplers.output import OnStage, Progress, PromptResult, SamplerOutput
from samplers.scoring import RewardSpec, Scorer


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """One call of a search, ready to be run.

    Attributes:
        model: draws scale by scale.
        scales: token grids of the call.
        arguments: of the model's own call, `output_type` among them.
        populations: one per prompt, nothing drawn yet.
        plan: what is going to be done.
        selectors: per scale those that look at the candidates after it, in this order.
        reward: what scores the candidates.
        preview_grid: token grid that candidates on the way are decoded at; None for the full one.
        num_outputs: samples returned per prompt.
        max_rows: most candidates drawn, and pictures decoded, at a time; None for no limit.
        keep_previews: whether the trace holds a small picture of each candidate at each stage.
        on_stage: shown each stage as it happens.
        progress: called with scales, decodes and scorings done so far.
    """

    model: NextScaleModel
    scales: ScaleSchedule
    arguments: CallArguments
    populations: Sequence[Population]
    plan: NextScalePlan
    selectors: Sequence[Sequence[Selector]]
    reward: RewardSpec
    preview_grid: Scale | None
    num_outputs: int
    max_rows: int | None
    keep_previews: bool
    on_stage: OnStage | None
    progress: Progress | None


def run_search(task: SearchTask) -> SamplerOutput:
    """Draw all candidates of all prompts scale by scale, and return the best of each prompt."""
    try:
        return _SearchRun(task).run()
    finally:
        task.model.maybe_free_model_hooks()


class _SearchRun:
    """One run of a task."""

    def __init__(self, task: SearchTask) -> None:
        self._task = task
        arguments = dict(task.arguments)
        self._output_type: str = arguments.pop("output_type", "pil")
        self._stopwatch = Stopwatch()
        with self._stopwatch.part("draw"):
            self._candidates = Candidates(
                task.model, task.populations, task.plan.schedule, task.scales, arguments
            )
        self._progress = ProgressCounts(task.progress, task.plan.cost)
        self._scorer = Scorer(task.reward, keep_previews=task.keep_previews)
        self._stage_scorer = StageScorer(
            self._candidates,
            self._scorer,
            self._progress,
            self._stopwatch,
            preview_grid=task.preview_grid,
            max_rows=task.max_rows,
            keep_previews=task.keep_previews,
        )
        self._recorder = StageRecorder(self._candidates, task.on_stage)

    def run(self) -> SamplerOutput:
        view = ScaleView(self._candidates, self._stage_scorer)
        for scale, selectors in enumerate(self._task.selectors):
            with self._stopwatch.part("draw"):
                self._candidates.draw_scale(self._task.max_rows)
            self._progress.scale_drawn(scale + 1, len(self._task.scales))
            for selector in selectors:
                selection = selector.select(view)
                if selection is not None:
                    self._keep(selection)
        results = self._results()
        return SamplerOutput(results=results, cost=self._cost(), trace=self._recorder.trace())

    def _keep(self, selection: Selection) -> None:
        alive = [population.places for population in self._candidates.populations]
        with self._stopwatch.part("gather"):
            moves = self._candidates.keep(selection.chosen)
        for index, scores in enumerate(selection.scores):
            self._recorder.record(index, alive[index], moves[index], scores)

    def _results(self) -> tuple[PromptResult, ...]:
        populations = self._candidates.populations
        slices = [self._candidates.rows_of(index) for index in range(len(populations))]
        if self._task.reward is None:
            pictures = self._stage_scorer.finished_pictures()
            return tuple(
                unranked_result(population, pictures[rows], self._output_type)
                for population, rows in zip(populations, slices, strict=True)
            )
        scored, pictures = self._stage_scorer.score_finished()
        results = []
        for index, (population, scores) in enumerate(zip(populations, scored, strict=True)):
            best = ranking(scores.combined)[: self._task.num_outputs]
            kept = {population.places[at]: population.places[at] for at in best}
            self._recorder.record(index, population.places, kept, scores)
            own = pictures[slices[index]]
            results.append(ranked_result(population, scores, best, own, self._output_type))
        return tuple(results)

    def _cost(self) -> Cost:
        state = self._candidates.state
        return Cost(
            tokens=state.tokens,
            decodes=self._stage_scorer.decodes,
            preview_decodes=self._stage_scorer.preview_decodes,
            reward_calls=self._scorer.reward_calls,
            seconds=_added(self._stopwatch.seconds, self._scorer.stopwatch.seconds),
            peak_memory_mib=peak_memory_mib(state.latents.device),
        )


def _added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}
