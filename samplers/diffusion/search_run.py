"""One pipeline call's search: at each stage score, choose and go on; at the last one rank.

The run stands between the pipeline's loop, which it watches at the scheduler, and the strategies,
which choose. What else there is to do lies in parts of its own: numbering rows, scoring, timing,
reporting, keeping the trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gensift.denoising.observer import StepEvent, keep_rows
from gensift.errors import RewardError
from gensift.trace import Stage
from samplers.diffusion.progress import CallProgress, SegmentTimer
from samplers.diffusion.row_gate import LiveRows
from samplers.diffusion.row_numbers import RowNumbers
from samplers.diffusion.schedule import Checkpoint
from samplers.diffusion.stage_scoring import RowScores, StageScorer
from samplers.diffusion.strategy import Selection, SelectionStrategy, StageScores
from samplers.diffusion.trace_log import TraceLog
from samplers.output import OnStage


class NothingLeft(Exception):
    """No candidate of this process is alive, so its pipeline call need not go on."""


@dataclass(kw_only=True)
class SearchRun:
    """The state of a search over `len(prompts)` x `num_candidates` rows, prompt-major.

    Attributes:
        prompts: one per group of rows.
        checkpoints: stages before the last one.
        strategies: one per prompt.
        num_outputs: finished candidates handed on per prompt.
        numbers: of the rows, over all processes.
        scoring: of the living.
        live: the rows of this pipeline call that are still computed.
        log: the trace.
        timer: seconds per part.
        progress: counts and reports.
        on_stage: shown each stage.
        incumbents: per prompt, scores by reward `(count,)` of candidates finished before this call,
            among which the finished ones of this call are ranked; none by default.
        order: rows handed on, best first per prompt, once the last step is made.
    """

    prompts: Sequence[str]
    checkpoints: Sequence[Checkpoint]
    strategies: Sequence[SelectionStrategy]
    num_outputs: int
    numbers: RowNumbers
    scoring: StageScorer
    live: LiveRows
    log: TraceLog
    timer: SegmentTimer
    progress: CallProgress
    on_stage: OnStage | None = None
    incumbents: Sequence[Mapping[str, Tensor]] = ()
    order: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._at_step = {point.step_index: point for point in self.checkpoints}
        self._is_before = self.strategies[0].is_before_step
        first = [
            self.numbers.row(index, candidate)
            for index, strategy in enumerate(self.strategies)
            for candidate in strategy.first(self.numbers.num_candidates)
        ]
        if places := self.numbers.places_of(first):
            self.live.prune(places)

    @property
    def is_scored(self) -> bool:
        """Whether there is a reward to choose by."""
        return bool(self.scoring.scorer.names)

    def before_step(self, event: StepEvent) -> Sequence[int] | None:
        """Observer of the step to come: the row whose place each row takes; None for its own."""
        if not self._is_before or event.step_index not in self._at_step or not self.is_scored:
            return None
        self.timer.close("denoise", event.sample)
        parents = self._parents(self._select(event))
        self.timer.restart()
        # All rows are alive here, as whoever copies before a step never drops one.
        rows = [parents[row] for row in sorted(parents)]
        return None if rows == sorted(parents) else rows

    def on_step(self, event: StepEvent) -> Tensor | None:
        """Observer of the scheduler: choose or rank at a stage, else just count."""
        self.progress.add("denoise", len(self.live.alive))
        latents = None
        if self._chooses_after(event.step_index):
            self.timer.close("denoise", event.latents)
            latents = self._go_on(self._select(event), event)
            self.timer.restart()
        if not event.is_last:
            return latents
        self.timer.close("denoise", event.latents)
        self.order = self._rank(event)
        self.timer.restart()
        kept = self.numbers.places_of(self.order)
        if not kept:
            raise NothingLeft
        return keep_rows(event.latents, kept, self.live.num_rows)

    def join_without_candidates(self) -> None:
        """Take part in the choices that are still to come, without a candidate of one's own."""
        if self.is_scored:
            left = [*self._at_step.values(), None][self.log.num_stages :]
            for point in left:
                found = self.scoring.score_without_candidates()
                if point is None:
                    self.order = self._ranked(found)
                else:
                    self._chosen(found)
        else:
            self.order = self.numbers.everyone()
        self.timer.restart()

    def _chooses_after(self, step_index: int) -> bool:
        point = self._at_step.get(step_index)
        # Where nothing scores, everybody goes on, but for stages that need no scores.
        return point is not None and not self._is_before and (self.is_scored or not point.is_scored)

    def _select(self, event: StepEvent) -> list[Selection]:
        """What the strategy of each prompt chooses at this stage."""
        if self._at_step[event.step_index].is_scored:
            selections = self._chosen(self.scoring.score(event, self.live.alive, is_final=False))
            self._show_stages()
            return selections
        rows = self.numbers.rows_at(self.live.alive)
        return [
            strategy.select(
                StageScores(
                    step_index=event.step_index,
                    num_inference_steps=event.num_inference_steps,
                    candidates=tuple(self.numbers.candidates_of(rows, index)),
                )
            )
            for index, strategy in enumerate(self.strategies)
        ]

    def _chosen(self, found: RowScores) -> list[Selection]:
        selections = []
        for index, strategy in enumerate(self.strategies):
            scores = self._of_prompt(found, index)
            selections.append(strategy.select(scores))
            parents = selections[-1].parents
            stage = self._stage(found, index, scores)
            self.log.add(index, stage, parents, copies=self._is_before)
        return selections

    def _parents(self, selections: Sequence[Selection]) -> dict[int, int]:
        """By row of this process: the row that goes on there."""
        number, place = self.numbers.row, self.numbers.places_of
        chosen: dict[int, int] = {}
        for index, selection in enumerate(selections):
            for candidate, parent in selection.parents.items():
                places = place([number(index, candidate), number(index, parent)])
                if len(places) == 2:
                    chosen[places[0]] = places[1]
        return chosen

    def _go_on(self, selections: Sequence[Selection], event: StepEvent) -> Tensor | None:
        """Let the chosen go on; returns the latents `(rows, ...)` if they changed."""
        parents = self._parents(selections)
        if not parents:
            raise NothingLeft
        latents: Tensor | None = None
        if all(row == parent for row, parent in parents.items()):
            self.live.prune(parents)
        else:
            self.live.branch(parents)
            rows, sources = (
                torch.tensor(side, device=event.latents.device)
                for side in (list(parents), list(parents.values()))
            )
            latents = event.latents.index_copy(0, rows, event.latents[sources])
        for index, selection in enumerate(selections):
            if selection.change is not None:
                own = self.numbers.places_of(
                    self.numbers.row(index, candidate) for candidate in sorted(selection.parents)
                )
                latents = event.latents.clone() if latents is None else latents
                latents[own] = selection.change(latents[own])
        return latents

    def _rank(self, event: StepEvent) -> list[int]:
        """Score the finished samples; returns the best rows, best first per prompt."""
        if not self.is_scored:
            return self.numbers.everyone()
        order = self._ranked(self.scoring.score(event, self.live.alive, is_final=True))
        self._show_stages()
        return order

    def _ranked(self, found: RowScores) -> list[int]:
        order: list[int] = []
        for index in range(len(self.prompts)):
            scores = self._of_prompt(found, index, is_final=True)
            best = scores.ranked()[: self.num_outputs]
            stage = self._stage(found, index, scores, is_final=True)
            self.log.add(index, stage, {candidate: candidate for candidate in best})
            order += [self.numbers.row(index, candidate) for candidate in best]
        return order

    def _of_prompt(self, found: RowScores, index: int, *, is_final: bool = False) -> StageScores:
        """The scores of one prompt's candidates, combined.

        Raises:
            RewardError: not one of them is finite.
        """
        at = [i for i, row in enumerate(found.rows) if self.numbers.prompt_of(row) == index]
        columns = {n: torch.tensor([values[i] for i in at]) for n, values in found.scores.items()}
        combined = self._combined(columns, index, is_final=is_final)
        if not any(map(math.isfinite, combined)):
            raise RewardError(
                f"Reward {', '.join(self.scoring.scorer.names)} gave no finite score for any of "
                f"the {len(at)} candidates of {self.prompts[index]!r} after step "
                f"{found.step_index + 1}; check the reward on a single picture."
            )
        return StageScores(
            step_index=found.step_index,
            num_inference_steps=found.num_inference_steps,
            candidates=tuple(self.numbers.candidates_of(found.rows, index)),
            combined=tuple(combined),
            by_reward={name: tuple(values.tolist()) for name, values in columns.items()},
        )

    def _combined(
        self, columns: Mapping[str, Tensor], index: int, *, is_final: bool
    ) -> list[float]:
        combine = self.scoring.scorer.combine
        if not (is_final and self.incumbents):
            values: list[float] = combine(columns).tolist()
            return values
        before = self.incumbents[index]
        together = {name: torch.cat([before[name], new]) for name, new in columns.items()}
        ranked: list[float] = combine(together)[len(next(iter(before.values()))) :].tolist()
        return ranked

    def _stage(
        self, found: RowScores, index: int, scores: StageScores, *, is_final: bool = False
    ) -> Stage:
        """The trace's record of a stage, before it is known who goes on."""
        offset = self.numbers.row(index, 0)
        return Stage(
            step_index=found.step_index,
            num_inference_steps=found.num_inference_steps,
            sigma=found.sigma,
            timestep=found.timestep,
            alive=scores.candidates,
            scores=scores.by_reward,
            combined=scores.combined,
            kept=(),
            is_final=is_final,
            previews={
                candidate: found.previews[offset + candidate]
                for candidate in scores.candidates
                if offset + candidate in found.previews
            },
        )

    def _show_stages(self) -> None:
        """Show the stage that was just scored, of every prompt."""
        if self.on_stage is not None:
            for index in range(len(self.prompts)):
                self.on_stage(index, self.log.stages[index][-1])
