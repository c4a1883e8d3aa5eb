"""The one engine of diverse decoding: a step of all strategies, for any number of rows and prompts.

Source: arXiv 2603.04893, section 3 and code: ODDStrategy, OrthogonalProjectionStrategy,
RandomProbeStrategy and DPPStrategy. The rule for duplicates is ours, see `DiversityOptions`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.text.diversity.basis import Bases
from samplers.text.diversity.candidates import Candidates, Diversified
from samplers.text.diversity.config import DiversityOptions
from samplers.text.diversity.dpp import dpp_gradient
from samplers.text.diversity.features import Features, extract
from samplers.text.diversity.noise import random_directions
from samplers.text.diversity.rows import RowReader, spread

MOST_LOGITS = 2**20
"""Logits that are worked on at a time, or a single row: few calls, and little memory."""
MIN_GRADIENT = 1e-8
RESOLUTION = 1e-3
"""Part of a unit feature outside the span up to which it is a duplicate: well above the rounding
of float32, well below what tells samples apart."""
OFFICIAL_RESOLUTION = 1e-6
REMEMBER_THE_UPDATE = ("orthogonal-projection", "random-probe")
"""Strategies in which later samples avoid where a sample has come to, not the direction in which
its feature grew; so its update comes before the next sample is looked at."""


@dataclass(frozen=True)
class Tables:
    """What the tokens are like, on the device of the logits.

    Attributes:
        protected: int64 `(tokens,)`, whose logits stay.
        embeddings: float32 `(vocab, channels)` if these are compared.
    """

    protected: Tensor
    embeddings: Tensor | None


class Engine:
    """One step for some prompts, a row of each or more at a time.

    A chunk is as many rows as fit: with a small vocabulary, where the time goes into calls, all of
    them, with a large one a single row, so that nothing of the size of the batch is made but the
    result.

    Args:
        candidates: every tensor with a leading dimension of prompts; they stay as they are.
        seeds: per prompt and row.
        config: the options.
        tables: what the tokens are like.
        history: float32 `(prompts, directions, dimension)`, rows orthonormal or 0.
        output: takes the new logits, `(prompts, rows, width, vocab)`.
    """

    def __init__(
        self,
        candidates: Candidates,
        seeds: Sequence[Sequence[int]],
        config: DiversityOptions,
        tables: Tables,
        history: Tensor,
        output: Tensor,
    ) -> None:
        self._candidates = candidates
        self._seeds = seeds
        self._config = config
        self._tables = tables
        self._output = output
        prompts, rows, width, vocab = candidates.logits.shape
        self._bases = Bases(history, capacity=0 if config.strategy == "dpp" else rows)
        self._most_rows = min(rows, max(1, MOST_LOGITS // max(1, prompts * width * vocab)))
        if config.strategy in REMEMBER_THE_UPDATE:
            self._most_rows = 1
        self._reader = RowReader(
            candidates,
            top_k=config.top_k,
            dropped=tables.protected if config.drop_committed_special else tables.protected[:0],
            most_rows=self._most_rows,
        )

    def run(self) -> list[Diversified]:
        """Move the logits of all rows, and say what each prompt's basis has become."""
        qualities = self._jointly() if self._config.strategy == "dpp" else self._in_order()
        return [
            Diversified(logits, self._bases.directions(prompt), quality)
            for prompt, (logits, quality) in enumerate(zip(self._output, qualities, strict=True))
        ]

    def _in_order(self) -> Tensor:
        """Each row away from the span of those before it; returns qualities `(prompts, rows)`."""
        qualities = []
        for rows in self._chunks():
            # 1. Every row's unit feature f and quality q.
            features = self._features(self._candidates.logits[:, rows], rows)
            units, quality = (
                self._by_prompt(features.units),
                self._by_prompt(features.quality.values),
            )
            # 2. Row by row the direction d outside the span of earlier rows.
            may_move = self._may_move(quality, rows)
            directions, is_moved = self._directions(units, may_move, rows)
            # 3. The loss is -q <f, d>, where d is a constant; go down its gradient.
            by_units = -quality[..., None] * directions
            by_quality = -(units * directions).sum(-1)
            self._update(rows, features, by_units, by_quality, is_moved)
            # 4. Some strategies keep later rows away from where this one has come to.
            if self._config.strategy in REMEMBER_THE_UPDATE:
                if bool(is_moved.any()):
                    units = self._by_prompt(self._features(self._output[:, rows], rows).units)
                self._bases.add(*self._bases.outside(units[:, 0], self._resolution))
            qualities.append(quality)
        return torch.cat(qualities, dim=1)

    def _jointly(self) -> Tensor:
        """All rows away from each other at once; returns qualities `(prompts, rows)`."""
        # 1. Every row's unit feature and quality; the probabilities, far larger, are not kept.
        seen = [self._compared(rows) for rows in self._chunks()]
        units, quality = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
        # 2. Gradients of the determinantal point process by both.
        by_units, by_quality = dpp_gradient(units, quality)
        # 3. The logits follow.
        for rows in self._chunks():
            features = self._features(self._candidates.logits[:, rows], rows)
            may_move = self._may_move(quality[:, rows], rows)
            self._update(rows, features, by_units[:, rows], by_quality[:, rows], may_move)
        return quality

    def _compared(self, rows: slice) -> tuple[Tensor, Tensor]:
        features = self._features(self._candidates.logits[:, rows], rows)
        return self._by_prompt(features.units), self._by_prompt(features.quality.values)

    def _chunks(self) -> Iterator[slice]:
        count = self._output.shape[1]
        for start in range(0, count, self._most_rows):
            yield slice(start, min(start + self._most_rows, count))

    def _features(self, logits: Tensor, rows: slice) -> Features:
        """Features of rows with the logits that they have by now."""
        return extract(self._reader.read(logits, rows), self._config, self._tables.embeddings)

    def _by_prompt(self, values: Tensor) -> Tensor:
        """`(prompts, rows, ...)` of values one below the other."""
        return values.view(len(self._output), -1, *values.shape[1:])

    @property
    def _resolution(self) -> float:
        """Part of a unit feature outside the span up to which it is a duplicate."""
        is_official = self._config.on_duplicate == "official"
        return OFFICIAL_RESOLUTION if is_official else RESOLUTION

    def _strength(self, quality: Tensor, rows: slice) -> Tensor:
        """How far the position that moves most moves, float32 `(prompts, rows)`.

        Gradients are normalised, so quality as a factor of the loss, as published, has no effect.
        """
        strength = self._candidates.strength[:, rows]
        if self._config.gate == "confidence":
            return strength * quality
        if self._config.gate == "threshold":
            return strength * (quality >= self._config.gate_threshold)
        return strength

    def _may_move(self, quality: Tensor, rows: slice) -> Tensor:
        """Which rows have an open position, and strength to move it; bool `(prompts, rows)`."""
        is_open = self._candidates.is_open[:, rows].any(-1)
        return is_open & (self._strength(quality, rows) > 0)

    def _directions(self, units: Tensor, may_move: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Along which unit direction each feature is to grow; for `odd` they join the bases.

        Args:
            units: float32 `(prompts, rows, dimension)`.
            may_move: bool `(prompts, rows)`.
            rows: which.

        Returns:
            Directions as `units`, 0 for not at all; bool `(prompts, rows)`, where there is one.
        """
        wanted, is_wanted = torch.zeros_like(units), torch.zeros_like(may_move)
        for at, row in enumerate(range(rows.start, rows.stop)):
            # The first row that counts is that of plain decoding.
            goes = may_move[:, at] & ~self._bases.is_empty
            direction, is_outside = self._bases.outside(units[:, at], self._resolution)
            probes = self._probes(goes, is_outside)
            if bool(probes.any()):
                noise = self._noise(units[:, at], probes, row)
                probed, is_found = self._bases.outside(noise, self._resolution)
                direction = torch.where(probes[:, None], probed, direction)
                is_outside = torch.where(probes, is_found, is_outside)
            wanted[:, at], is_wanted[:, at] = direction * goes[:, None], is_outside & goes
            if self._config.strategy not in REMEMBER_THE_UPDATE:
                self._bases.add(direction, is_outside)
        return wanted, is_wanted

    def _probes(self, goes: Tensor, is_outside: Tensor) -> Tensor:
        """Which rows go in a random direction, bool `(prompts,)`."""
        if self._config.strategy == "random-probe":
            return goes
        is_random = self._config.on_duplicate == "random"
        return goes & ~is_outside if is_random else torch.zeros_like(goes)

    def _noise(self, units: Tensor, probes: Tensor, row: int) -> Tensor:
        """Random directions `(prompts, dimension)` where asked for, elsewhere 0."""
        own = [self._seeds[prompt][row] for prompt in probes.nonzero()[:, 0].tolist()]
        # A duplicate's are weighted by its own vector: it parts among tokens that are plausible.
        weights = torch.ones_like(units) if self._config.strategy == "random-probe" else units
        noise = torch.zeros_like(units)
        noise[probes] = random_directions(weights[probes], own, self._candidates.step)
        return noise

    def _update(
        self,
        rows: slice,
        features: Features,
        by_units: Tensor,
        by_quality: Tensor,
        is_moved: Tensor,
    ) -> None:
        """Move logits against a gradient; the position that moves most moves by the strength.

        Args:
            rows: which.
            features: of these rows; they are spent.
            by_units: float32 `(prompts, rows, dimension)`, gradient of the loss by them.
            by_quality: float32 `(prompts, rows)`, by quality.
            is_moved: bool `(prompts, rows)`; the others keep their logits to the bit.

        Source: arXiv 2603.04893, code: ODDStrategy._normalize_gradient.
        """
        logits, output = self._candidates.logits[:, rows], self._output[:, rows]
        if not bool(is_moved.any()):
            output.copy_(logits)
            return
        gradient = features.vjp(by_units.flatten(0, 1), by_quality.flatten())
        gradient.index_fill_(-1, self._tables.protected, 0)
        largest = torch.linalg.vector_norm(gradient, dim=-1).amax(-1).clamp(min=MIN_GRADIENT)
        strength = self._strength(self._by_prompt(features.quality.values), rows)
        scale = torch.where(is_moved, -strength / self._by_prompt(largest), 0)[..., None, None]
        gradient, layout = self._by_prompt(gradient), self._reader.layout
        is_still = ~(is_moved[..., None] & self._by_prompt(features.rows.is_open))
        if layout.is_ordered and gradient.shape == output.shape and not bool(is_still.any()):
            torch.addcmul(logits, gradient, scale, out=output)
            return
        opened = self._reader.opened(logits, rows)
        moved = torch.addcmul(opened, gradient, scale).to(output.dtype)
        moved = torch.where(is_still[..., None], opened, moved)
        output.copy_(logits).scatter_(-2, spread(self._reader.slots(rows), logits), moved)
