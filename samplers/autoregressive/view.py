"""What a selector sees of a search after a scale, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from gensift.cost import Stopwatch
from samplers.autoregressive.candidates import Candidates
from samplers.autoregressive.population import Population
from samplers.autoregressive.stage_scoring import CandidateScores, StageScorer


@dataclass(frozen=True)
class Selection:
    """Who goes on after a scale.

    Attributes:
        chosen: per prompt the positions of the candidates that go on; one that is named twice is
            copied. As many as the schedule has at that scale.
        scores: per prompt what they were chosen by, for the trace.
    """

    chosen: Sequence[Sequence[int]]
    scores: Sequence[CandidateScores]


class ScaleView:
    """The candidates after a scale.

    Positions count the living candidates of a prompt from 0; `rows_of` says which rows of
    `latents` and `pictures()` they are.
    """

    def __init__(self, candidates: Candidates, scorer: StageScorer) -> None:
        """Show `candidates` as they are now, scored by `scorer` when a selector asks for it."""
        self._candidates = candidates
        self._scorer = scorer

    @property
    def scale(self) -> int:
        """Index of the scale that was drawn last."""
        return self._candidates.scale

    @property
    def populations(self) -> Sequence[Population]:
        """The candidates of each prompt: seeds, places and what was noted of their ancestors."""
        return self._candidates.populations

    @property
    def latents(self) -> Tensor:
        """Latents of all candidates, `(rows, channels, H, W)`: the sum of all codes so far."""
        return self._candidates.state.latents

    @property
    def stopwatch(self) -> Stopwatch:
        """Seconds per part of the call: `with view.stopwatch.part("cluster"): ...`."""
        return self._scorer.stopwatch

    def rows_of(self, index: int) -> slice:
        """The rows of one prompt's candidates."""
        return self._candidates.rows_of(index)

    def pictures(self) -> Tensor:
        """Pictures of all candidates, `(rows, 3, height, width)` in [0, 1]; decodes them."""
        return self._scorer.pictures()

    def scores(self) -> list[CandidateScores]:
        """Scores of all candidates, one entry per prompt; decodes them and asks the rewards."""
        return self._scorer.score()

    def thumbnails(self, pictures: Tensor) -> list[Image.Image]:
        """Small copies of `pictures` `(rows, 3, height, width)` for the trace, if it has any."""
        return self._scorer.thumbnails(pictures)


class Selector(Protocol):
    """Looks at the candidates after a scale, and may drop or copy some."""

    def select(self, view: ScaleView) -> Selection | None:
        """Who goes on, of all prompts; None where everyone does."""
        ...
