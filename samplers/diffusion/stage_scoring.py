"""Scoring the living candidates at a stage, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from gensift.denoising.observer import StepEvent
from samplers.diffusion.row_numbers import RowNumbers
from samplers.exchange import Exchange
from samplers.scoring import Decoder, Scorer


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """Scores of living rows after a step.

    Attributes:
        step_index, num_inference_steps, sigma, timestep: as in `gensift.trace.Stage`.
        rows: ascending numbers of the rows, over all prompts and processes.
        scores: per reward one value for each of `rows`; float32 values, exact in Python's floats.
        previews: small pictures by row, where they are kept; of this process alone.
    """

    step_index: int
    num_inference_steps: int
    sigma: float
    timestep: float
    rows: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    previews: Mapping[int, Image.Image] = field(default_factory=dict)


@dataclass(kw_only=True)
class StageScorer:
    """Decodes and scores what is alive, and puts together what all processes have found.

    Attributes:
        prompts: one per group of rows.
        numbers: of the rows.
        scorer: asks the rewards.
        decoder: of finished latents.
        early_decoder: of early estimates; the same, or a tiny one.
        exchange: with whom candidates are shared.
        max_images: pictures decoded and scored at a time.
        on_image: called with "decode" or "reward" and the number of pictures.
    """

    prompts: Sequence[str]
    numbers: RowNumbers
    scorer: Scorer
    decoder: Decoder
    early_decoder: Decoder
    exchange: Exchange
    max_images: int | None
    on_image: Callable[[str, int], None]

    def score(self, event: StepEvent, alive: Sequence[int], *, is_final: bool) -> RowScores:
        """Score the rows in the places `alive` of this process, and learn of the others'.

        Args:
            event: the step; its latents are scored where they are final, else its estimate.
            alive: places in this process's pipeline call, ascending.
            is_final: whether the step was the last one.
        """
        # The last estimate is the final latent itself, and that is what gets decoded.
        latents = event.latents if is_final else event.pred_original_sample
        rows = self.numbers.rows_at(alive)
        found = self.scorer.score(
            self.decoder if is_final else self.early_decoder,
            latents.index_select(0, torch.tensor(alive, device=latents.device)),
            [self.prompts[self.numbers.prompt_of(row)] for row in rows],
            self.max_images,
            self.on_image,
            sigma=None if is_final else event.flow_sigma,
        )
        own = RowScores(
            step_index=event.step_index,
            num_inference_steps=event.num_inference_steps,
            sigma=0.0 if is_final else event.sigma,
            timestep=float(event.timestep),
            rows=tuple(rows),
            scores={name: tuple(values.tolist()) for name, values in found.by_reward.items()},
            previews=dict(zip(rows, found.thumbnails, strict=False)),
        )
        return self._of_all(own)

    def score_without_candidates(self) -> RowScores:
        """What the others have found, for a process that has nothing left to score."""
        return self._of_all(None)

    def _of_all(self, own: RowScores | None) -> RowScores:
        if self.exchange.size == 1 and own is not None:
            return own
        with self.scorer.stopwatch.part("wait"):
            # Scores travel between processes, pictures never.
            parts = self.exchange.gather(own and replace(own, previews={}))
        everyone = merged(parts)
        return everyone if own is None else replace(everyone, previews=own.previews)


def merged(parts: Sequence[RowScores | None]) -> RowScores:
    """The scores of all processes as one; those without a living candidate have None."""
    found = [part for part in parts if part is not None]
    rows = [row for part in found for row in part.rows]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    columns = {
        name: [value for part in found for value in part.scores[name]] for name in found[0].scores
    }
    return replace(
        found[0],
        rows=tuple(rows[at] for at in order),
        scores={name: tuple(values[at] for at in order) for name, values in columns.items()},
    )
