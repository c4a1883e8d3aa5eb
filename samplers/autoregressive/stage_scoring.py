"""Decoding and scoring the candidates as they are after a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from gensift.cost import Stopwatch
from gensift.pipelines.next_scale.scales import Scale
from samplers.autoregressive.candidates import Candidates, finish_gpu_work
from samplers.autoregressive.decoding import StateDecoder, distinct_rows
from samplers.autoregressive.progress import ProgressCounts
from samplers.scoring import Scorer, Scores, decode_what_fits, thumbnail


@dataclass(frozen=True)
class CandidateScores(Scores):
    """Scores of the candidates of one prompt.

    Attributes:
        combined: one number for each candidate, float `(candidates,)`, by which they are ranked;
            -inf where no score is finite. Empty without a reward.
    """

    combined: Tensor = field(default_factory=lambda: torch.zeros(0))


class StageScorer:
    """Decodes and scores all candidates, each picture as seldom as it can.

    Attributes:
        stopwatch: seconds of what is done here; the scorer has its own.
    """

    def __init__(
        self,
        candidates: Candidates,
        scorer: Scorer,
        progress: ProgressCounts,
        stopwatch: Stopwatch,
        *,
        preview_grid: Scale | None,
        max_rows: int | None,
        keep_previews: bool,
    ) -> None:
        """Score `candidates`.

        Args:
            candidates: of all prompts.
            scorer: asks the rewards.
            progress: counts decodes and scorings.
            stopwatch: for "decode".
            preview_grid: token grid that candidates on the way are decoded at; None for the full
                one.
            max_rows: most pictures decoded at a time; None for as many as are finished.
            keep_previews: whether the trace is to hold a small picture of each candidate.
        """
        self._candidates = candidates
        self._scorer = scorer
        self._progress = progress
        self.stopwatch = stopwatch
        self._preview_grid = preview_grid
        self._max_rows = max_rows
        self._keep_previews = keep_previews
        self._decodes = self._preview_decodes = 0
        # What was decoded to be scored, where clusters are formed of it next.
        self._decoded: tuple[int, Tensor] | None = None

    @property
    def decodes(self) -> int:
        """Pictures decoded so far at full size."""
        return self._decodes + self._scorer.decodes

    @property
    def preview_decodes(self) -> int:
        """Pictures decoded so far at reduced size."""
        return self._preview_decodes + self._scorer.preview_decodes

    def pictures(self) -> Tensor:
        """Pictures `(rows, 3, height, width)` of all candidates on the way, in [0, 1]."""
        if self._decoded is not None and self._decoded[0] == self._candidates.scale:
            return self._decoded[1]
        decoder = StateDecoder(self._candidates.model, self._preview_grid)
        pictures = self._decode(decoder)
        if decoder.is_tiny:
            self._preview_decodes += len(pictures)
        else:
            self._decodes += len(pictures)
        self._progress.add("decode", len(pictures))
        return pictures

    def finished_pictures(self) -> Tensor:
        """Pictures `(rows, 3, height, width)` of all finished candidates, in [0, 1]."""
        pictures = self._decode(StateDecoder(self._candidates.model))
        self._decodes += len(pictures)
        return pictures

    def score(self) -> list[CandidateScores]:
        """Scores of all candidates on the way, one entry per prompt."""
        candidates = self._candidates
        is_clustered = candidates.scale in candidates.schedule.cluster_scales
        decoder = StateDecoder(candidates.model, self._preview_grid, is_clustered)
        found = self._score(decoder)
        if is_clustered:
            self._decoded = candidates.scale, torch.stack(decoder.pictures)
        return found

    def score_finished(self) -> tuple[list[CandidateScores], Tensor]:
        """Scores of all finished candidates, one entry per prompt, and their pictures.

        The pictures are `(rows, 3, height, width)` in [0, 1].
        """
        decoder = StateDecoder(self._candidates.model, keeps_pictures=True)
        found = self._score(decoder)
        return found, torch.stack(decoder.pictures)

    def thumbnails(self, pictures: Tensor) -> list[Image.Image]:
        """Small copies of `pictures` `(rows, 3, height, width)`; none unless the trace has them."""
        return [thumbnail(picture) for picture in pictures] if self._keep_previews else []

    def _score(self, decoder: StateDecoder) -> list[CandidateScores]:
        """Scores per prompt; rows that came out alike are decoded and scored once."""
        state, populations = self._candidates.state, self._candidates.populations
        first, like = distinct_rows(state.latents, state.prompt_of_row)
        found = self._scorer.score(
            decoder,
            state.latents[first],
            [populations[state.prompt_of_row[row]].prompt for row in first],
            self._most_pictures,
            self._progress.add,
        )
        if decoder.keeps_pictures:
            decoder.pictures = [decoder.pictures[at] for at in like]
        slices = [self._candidates.rows_of(index) for index in range(len(populations))]
        return [self._of_prompt(found, like[rows]) for rows in slices]

    def _of_prompt(self, found: Scores, rows: Sequence[int]) -> CandidateScores:
        by_reward = {name: values[rows] for name, values in found.by_reward.items()}
        thumbnails = [found.thumbnails[row] for row in rows] if found.thumbnails else []
        return CandidateScores(by_reward, thumbnails, self._scorer.combine(by_reward))

    def _decode(self, decoder: StateDecoder) -> Tensor:
        latents = self._candidates.state.latents
        parts: list[Tensor] = []
        done = 0
        with self.stopwatch.part("decode"):
            while done < len(latents):
                parts.append(decode_what_fits(decoder, latents[done:], self._most_pictures))
                done += len(parts[-1])
            finish_gpu_work(latents)
        return torch.cat(parts)

    @property
    def _most_pictures(self) -> int:
        """Pictures decoded at a time: no more than are finished, or memory would peak here."""
        finished = sum(population.size_at(1) for population in self._candidates.populations)
        return self._max_rows or finished
