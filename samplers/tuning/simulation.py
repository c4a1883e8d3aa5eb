"""A pruning search, played through on scores that are known already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gensift.errors import ConfigError
from samplers.diffusion.schedule import Checkpoint, goes_on, plan_stages
from samplers.tuning.arrays import Floats
from samplers.tuning.recordings import RewardScores, ScoreTensors

Indices = NDArray[np.integer]
Value = TypeVar("Value", bound=np.generic)

FINAL = -1
"""Stands for the scoring on finished pictures, where others give a step index."""


class Draws:
    """Random candidates for every prompt, on which any number of schedules can be compared.

    A draw is an order of the pool's images; a search for n candidates takes the first n. So
    schedules are compared on common random numbers. Each prompt has draws of its own: with the same
    ids for all, as in the published simulation, chance would not average out over prompts.

    Attributes:
        candidates: per draw the images in order, as places in the pool, int32
            `(prompts, draws, most)`.
    """

    def __init__(
        self,
        scores: ScoreTensors,
        num_draws: int,
        seed: int | tuple[int, ...],
        most: int | None = None,
    ) -> None:
        """Draw orders of the pool.

        Args:
            scores: the pool.
            num_draws: per prompt.
            seed: of all draws.
            most: candidates that any search will ask for; by default the whole pool.
        """
        self.most = min(most or scores.num_images, scores.num_images)
        self._scores = scores
        self._worth = scores.values()
        shape = (scores.num_prompts, num_draws, scores.num_images)
        pool = np.broadcast_to(np.arange(scores.num_images, dtype=np.int32), shape)
        shuffled = np.random.default_rng(seed).permuted(pool, axis=-1)
        self.candidates: Indices = shuffled[:, :, : self.most].copy()
        # Rows are prompts x draws.
        self._order = self.candidates.reshape(-1, self.most)
        self._shape = shape[:2]
        self._cached: dict[int, tuple[list[Indices], NDArray[np.bool_] | None]] = {}

    def winners(self, checkpoints: Sequence[Checkpoint], num_candidates: int) -> Indices:
        """The image that wins each search, integer `(prompts, draws)`, as a place in the pool.

        Ties go to the candidate drawn first. A candidate whose score is not finite never survives a
        checkpoint; if that leaves none, any of them is returned.

        Raises:
            ConfigError: the pool has fewer images than candidates.
        """
        if not 1 <= num_candidates <= self.most:
            raise ConfigError(
                f"{num_candidates} candidates were asked for, but {self.most} images per prompt "
                "can be drawn; record more images per prompt, or lower the budget."
            )
        stages = plan_stages(checkpoints, self._scores.num_steps, num_candidates, 1)
        rows = len(self._order)
        alive = np.tile(np.arange(num_candidates, dtype=np.int32), (rows, 1))
        is_lost = np.zeros(alive.shape, dtype=bool)
        for stage, point in zip(stages, checkpoints, strict=False):
            begun = ~is_lost
            keys, is_lost = self._keys(stage.step_index, alive, is_lost)
            if is_lost.any():
                is_lost = is_lost | (_places(keys) >= _allowed(begun, point.keep))
            kept = np.argpartition(keys, stage.kept - 1, axis=1)[:, : stage.kept]
            alive, is_lost = _pick(alive, kept), _pick(is_lost, kept)
        keys, _ = self._keys(FINAL, alive, is_lost)
        first = _pick(alive, keys.argmin(axis=1, keepdims=True))
        return _pick(self._order, first).reshape(self._shape)

    def rewards(self, checkpoints: Sequence[Checkpoint], num_candidates: int) -> Floats:
        """Mean worth of the winners, float64 `(prompts,)`; see `ScoreTensors.values`.

        Raises:
            ConfigError: the pool has fewer images than candidates.
        """
        winners = self.winners(checkpoints, num_candidates)
        mean: Floats = np.take_along_axis(self._worth, winners, axis=1).mean(axis=1)
        return mean

    def _keys(
        self, step: int, alive: Indices, is_lost: NDArray[np.bool_]
    ) -> tuple[Indices, NDArray[np.bool_]]:
        """Distinct numbers `(rows, alive)` that ascend from best to worst; and who is lost now.

        What is lost comes after all else, also at the checkpoints to come.
        """
        ranks, is_broken = self._ranks(step)
        if is_broken is not None:
            is_lost = is_lost | _pick(is_broken, alive)
        picked = [_pick(part, alive) for part in ranks]
        if len(picked) == 1:
            return picked[0] + is_lost * _BEYOND, is_lost
        # Rank sum among the living: the lost have the last ranks and take none from others.
        # Doubled, since those that tie share the mean of their ranks.
        ranked = [2 * rankdata(part + is_lost * _BEYOND, axis=1) for part in picked]
        total = np.sum(ranked, axis=0).astype(np.int64)
        return total * self.most + alive + is_lost * _FAR_BEYOND, is_lost

    def _ranks(self, step: int) -> tuple[list[Indices], NDArray[np.bool_] | None]:
        """Per reward a descending rank of all that is drawn `(rows, most)`; who is broken, if any.

        With one reward the order among some is that among all, so ties are broken here; with
        several, those that tie share a rank.
        """
        if step not in self._cached:
            drawn = [self._drawn(scores, step) for scores in self._scores.rewards.values()]
            is_broken: NDArray[np.bool_] = np.logical_or.reduce([~np.isfinite(p) for p in drawn])
            rank = _places if len(drawn) == 1 else _shared_ranks
            ranks = [rank(np.where(is_broken, np.inf, -part)) for part in drawn]
            self._cached[step] = ranks, is_broken if is_broken.any() else None
        return self._cached[step]

    def _drawn(self, scores: RewardScores, step: int) -> Floats:
        column = scores.final if step == FINAL else scores.early[:, :, step]
        return _pick(np.repeat(column, self._shape[1], axis=0), self._order)


_BEYOND = np.int32(2**29)
_FAR_BEYOND = 2**60


def _pick(values: NDArray[Value], places: Indices) -> NDArray[Value]:
    """`take_along_axis` of the last axis, several times as fast for narrow rows."""
    offsets = np.arange(len(values))[:, None] * values.shape[1]
    picked: NDArray[Value] = values.ravel().take(places + offsets)
    return picked


def _allowed(is_living: NDArray[np.bool_], keep: float) -> Indices:
    """How many of those that live, fewer than planned where scores broke, go on: `(rows, 1)`."""
    table = np.array([0, *(goes_on(n, keep, 1) for n in range(1, is_living.shape[1] + 1))])
    allowed: Indices = table[is_living.sum(axis=1, keepdims=True)]
    return allowed


def _places(values: Floats | Indices) -> Indices:
    """Places in ascending order; of equal values the earlier one comes first."""
    order = values.argsort(axis=1, kind="stable")
    places = np.empty(order.shape, dtype=np.int32)
    numbers = np.broadcast_to(np.arange(order.shape[1]), order.shape)
    np.put_along_axis(places, order, numbers, axis=1)
    return places


def _shared_ranks(values: Floats) -> Indices:
    """Ranks in ascending order; equal values have the same."""
    ranks: Indices = rankdata(values, method="min", axis=1).astype(np.int32)
    return ranks


def simulate(
    scores: ScoreTensors,
    checkpoints: Sequence[Checkpoint],
    num_candidates: int,
    *,
    num_draws: int = 40,
    seed: int = 0,
) -> Floats:
    """Mean final reward of the winner per prompt, float64 `(prompts,)`.

    Args:
        scores: the pool.
        checkpoints: where to prune; best-of-N without any.
        num_candidates: drawn per prompt without replacement.
        num_draws: searches per prompt.
        seed: of the draws.

    Raises:
        ConfigError: the pool has fewer images than candidates.

    Source: the offline simulation of the TTSnap authors, with draws of its own for each prompt.
    """
    return Draws(scores, num_draws, seed, num_candidates).rewards(checkpoints, num_candidates)
