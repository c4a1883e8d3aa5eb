"""What a refinement knows about one prompt: pivots, the best so far, and how they came about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gensift.protocols import Sample
from gensift.trace import PromptTrace, Stage
from samplers.diffusion.outputs import Row
from samplers.output import PromptResult
from samplers.scoring import RewardSpec, Scorer


@dataclass(frozen=True)
class Proposal:
    """A candidate about to be made: in which line of pivots, by which seed, from whom if any."""

    line: int
    seed: int
    parent: int | None


class LocalSearchState:
    """The refinement of one prompt's noises.

    Candidates are numbered on from those of the first search, round after round.

    Attributes:
        pivots: per line the candidate whose neighbours come next.
        stagnated: lines whose pivot no neighbour of the last round has beaten.
        elite: the best candidates so far, best first, as many as are returned.
        noises: initial noise of each pivot.
    """

    def __init__(
        self, reward: RewardSpec, first: PromptTrace, num_pivots: int, num_outputs: int
    ) -> None:
        """Start from the `first` search."""
        self._scorer = Scorer(reward)
        self._first = first
        self._num_pivots, self._num_outputs = num_pivots, num_outputs
        self._seeds = list(first.seeds)
        self._parents: list[int | None] = [None] * len(first.seeds)
        self._stages = [replace(stage, round=0) for stage in first.stages]
        self._scores: dict[int, dict[str, float]] = {}
        self._rows: dict[int, Row] = {}
        self._finished_scores: list[float] = []
        self._first_reward: float | None = None
        self.pivots: list[int] = []
        self.stagnated: set[int] = set()
        self.elite: list[int] = []
        self.noises: dict[int, Tensor] = {}

    def begin(self, rows: Sequence[Row], result: PromptResult) -> None:
        """Take over what the first search returned, best first."""
        final = self._stages[-1]
        ranked = [candidate for candidate in final.ranking if candidate in final.kept]
        self._store(ranked, final)
        self._rows = dict(zip(ranked, rows, strict=True))
        self.elite = ranked[: self._num_outputs]
        self.pivots = ranked[: self._num_pivots]
        self._first_reward = result.first_reward
        self._finished_scores = list(final.combined)

    @property
    def carried(self) -> list[int]:
        """Candidates of earlier rounds that the next ones are compared with, ascending."""
        return sorted({*self.elite, *self.pivots})

    def incumbents(self) -> dict[str, Tensor]:
        """Their scores, per reward `(len(carried),)`."""
        return {
            name: torch.tensor([self._scores[c][name] for c in self.carried])
            for name in self._scorer.names
        }

    def advance(
        self,
        number: int,
        proposals: Sequence[Proposal],
        noises: Tensor,
        stages: Sequence[Stage],
        rows: Sequence[Row],
    ) -> None:
        """Take over a round.

        Args:
            number: of the round, from 1.
            proposals: its candidates, in the order of the pipeline's rows.
            noises: theirs, `(len(proposals), ...)`.
            stages: what the round's own search did with them.
            rows: the finished pictures that it handed on, best first.
        """
        base = len(self._seeds)
        self._seeds += [proposal.seed for proposal in proposals]
        self._parents += [proposal.parent for proposal in proposals]
        *early, final = [_renumbered(stage, base, number) for stage in stages]
        self._store(final.alive, final)
        handed_on = [candidate for candidate in final.ranking if candidate in final.kept]
        self._rows |= dict(zip(handed_on, rows, strict=True))
        self._finished_scores += final.combined
        merged = self._merged(final)
        self._choose(merged, final.alive, base, proposals)
        self._stages += [*early, replace(merged, kept=tuple(self.carried))]
        known = {**self.noises, **{c: noises[c - base] for c in final.alive}}
        self.noises = {pivot: known[pivot].clone() for pivot in self.pivots}
        self._rows = {candidate: self._rows[candidate] for candidate in self.elite}

    def stages_of(self, number: int) -> list[Stage]:
        """The stages of one round, its candidates numbered on."""
        return [stage for stage in self._stages if stage.round == number]

    def best_rows(self) -> list[Row]:
        """The pictures of `elite`."""
        return [self._rows[candidate] for candidate in self.elite]

    def trace(self) -> PromptTrace:
        """All rounds; the last stage keeps what is returned."""
        *others, last = self._stages
        last = replace(last, kept=tuple(sorted(self.elite)))
        return replace(
            self._first,
            seeds=tuple(self._seeds),
            parents=tuple(self._parents),
            stages=(*others, last),
        )

    def result(self, samples: Sequence[Sample]) -> PromptResult:
        """The best candidates, best first, with their pictures."""
        final = self._stages[-1]
        combined = dict(zip(final.alive, final.combined, strict=True))
        # Ranks and z-scores hold within a round only; they are not compared with other rounds.
        finite = [score for score in self._finished_scores if math.isfinite(score)]
        is_absolute = len(self._scorer.names) == 1
        return PromptResult(
            prompt=self._first.prompt,
            samples=samples,
            rewards=tuple(combined[c] for c in self.elite),
            all_rewards=tuple(dict(self._scores[c]) for c in self.elite),
            seeds=tuple(self._seeds[c] for c in self.elite),
            first_reward=self._first_reward if is_absolute else None,
            mean_reward=sum(finite) / len(finite) if is_absolute else None,
        )

    def _store(self, candidates: Sequence[int], stage: Stage) -> None:
        place = {candidate: index for index, candidate in enumerate(stage.alive)}
        for candidate in candidates:
            self._scores[candidate] = {
                name: values[place[candidate]] for name, values in stage.scores.items()
            }

    def _merged(self, final: Stage) -> Stage:
        """The round's scoring with those carried over among the candidates."""
        alive = (*self.carried, *final.alive)
        scores = {
            name: tuple(self._scores[candidate][name] for candidate in alive)
            for name in self._scorer.names
        }
        columns: Mapping[str, Tensor] = {n: torch.tensor(v) for n, v in scores.items()}
        before = self._stages[-1].previews
        return replace(
            final,
            alive=alive,
            scores=scores,
            combined=tuple(self._scorer.combine(columns).tolist()),
            kept=alive,
            previews={c: before[c] for c in self.carried if c in before} | dict(final.previews),
        )

    def _choose(
        self, merged: Stage, new: Sequence[int], base: int, proposals: Sequence[Proposal]
    ) -> None:
        finite = {
            candidate: score
            for candidate, score in zip(merged.alive, merged.combined, strict=True)
            if math.isfinite(score)
        }

        def best(candidates: Sequence[int]) -> list[int]:
            # Ties go to the earlier candidate.
            return sorted((c for c in candidates if c in finite), key=lambda c: (-finite[c], c))

        self.elite = best([*self.elite, *new])[: self._num_outputs]
        self.stagnated = {
            line
            for line in range(len(self.pivots))
            if not self._move(line, best, new, base, proposals)
        }

    def _move(
        self,
        line: int,
        best: Callable[[Sequence[int]], list[int]],
        new: Sequence[int],
        base: int,
        proposals: Sequence[Proposal],
    ) -> bool:
        """Choose the next pivot of a line; whether it is another one."""
        mine = [candidate for candidate in new if proposals[candidate - base].line == line]
        is_fresh = any(proposals[candidate - base].parent is None for candidate in mine)
        pivot = self.pivots[line]
        ranked = best(mine if is_fresh else [pivot, *mine])
        self.pivots[line] = ranked[0] if ranked else pivot
        return bool(self.pivots[line] != pivot)


def _renumbered(stage: Stage, base: int, number: int) -> Stage:
    """A stage of a round's own search, its candidates numbered on from `base`."""
    return replace(
        stage,
        round=number,
        alive=tuple(candidate + base for candidate in stage.alive),
        kept=tuple(candidate + base for candidate in stage.kept),
        previews={candidate + base: image for candidate, image in stage.previews.items()},
    )
