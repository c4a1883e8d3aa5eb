"""How a search chooses at its stages: candidates that stop, go on, or go on in several copies.

A search asks one strategy per prompt, stage after stage. Pruning, resampling and branching are one
thing seen from here: for each place among the candidates, whose latents go on there, if anybody's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from samplers.diffusion.schedule import Checkpoint, goes_on


@dataclass(frozen=True, kw_only=True)
class StageScores:
    """Scores of the living candidates of one prompt.

    Attributes:
        step_index: step whose estimates were scored.
        num_inference_steps: length of the loop.
        candidates: who is alive, ascending.
        combined: one score each, higher is better; -inf for a candidate that cannot be used.
        by_reward: the same of every single reward, unchanged.
    """

    step_index: int
    num_inference_steps: int
    candidates: tuple[int, ...]
    combined: tuple[float, ...] = ()
    by_reward: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def ranked(self) -> list[int]:
        """Candidates that can be used, best first; ties go to the lower number."""
        scored = zip(self.candidates, self.combined, strict=True)
        usable = [(-score, candidate) for candidate, score in scored if math.isfinite(score)]
        return [candidate for _, candidate in sorted(usable)]


@dataclass(frozen=True)
class Selection:
    """Who goes on after a stage.

    Attributes:
        parents: by place, the living candidate whose latents go on there; a place that is not named
            is empty from now on.
        change: makes of the latents in these places, ascending, `(len(parents), ...)`, those that
            go on, such as noisier ones; None leaves them.
    """

    parents: Mapping[int, int]
    change: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def keep(cls, candidates: Iterable[int]) -> Selection:
        """These go on in their own places, and nobody else."""
        return cls({candidate: candidate for candidate in candidates})


class SelectionStrategy(ABC):
    """Chooses among the candidates of one prompt, from the first stage to the last but one.

    At the last stage finished samples are ranked, and nothing is left to choose.

    Attributes:
        is_before_step: whether a stage comes before its step is made, of which every copy then
            makes its own version (with noise of its own), or after it.
    """

    is_before_step: ClassVar[bool] = False

    def first(self, num_candidates: int) -> Iterable[int]:
        """The places that are drawn from the start."""
        return range(num_candidates)

    @abstractmethod
    def select(self, scores: StageScores) -> Selection:
        """Choose; must not draw on any randomness but the strategy's own.

        Args:
            scores: of the living; without any at a stage that is not scored.
        """


class Pruning(SelectionStrategy):
    """Keeps a share of the living at each checkpoint, those with the highest scores."""

    def __init__(self, checkpoints: Sequence[Checkpoint], num_outputs: int) -> None:
        """Never keeps fewer than `num_outputs`."""
        self._shares = {point.step_index: point.keep for point in checkpoints}
        self._num_outputs = num_outputs

    def select(self, scores: StageScores) -> Selection:
        """See `SelectionStrategy`."""
        share = self._shares[scores.step_index]
        count = goes_on(len(scores.candidates), share, self._num_outputs)
        return Selection.keep(scores.ranked()[:count])
