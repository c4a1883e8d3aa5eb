"""Searching on a pipeline with a feature cache: what it keeps follows the candidates."""

from __future__ import annotations

from collections.abc import Sequence

from gensift.denoising.bound import BoundPipeline, RowCache
from gensift.denoising.observer import BeforeStep, StepEvent
from gensift.errors import UnsupportedPipelineError
from samplers.diffusion.row_gate import LiveRows


def follow_rows(cache: RowCache | None, live: LiveRows) -> None:
    """Let a pipeline's cache, if it has one, follow the candidates that prune and branch."""
    if cache is not None:
        cache.ensure_attached()
        live.on_select.append(_Follower(cache, live))


def follow_copies(cache: RowCache | None, before_step: BeforeStep, num_rows: int) -> BeforeStep:
    """`before_step`, whose copies of rows a pipeline's cache follows, if it has one."""
    if cache is None:
        return before_step

    def followed(event: StepEvent) -> Sequence[int] | None:
        rows = before_step(event)
        if rows is not None:
            cache.select(dict(enumerate(rows)), num_rows)
        return rows

    return followed


def refuse_cache(bound: BoundPipeline, sampler: str) -> None:
    """Refuse a cache where the loop goes back and forth, which no schedule foresees.

    Raises:
        UnsupportedPipelineError: the pipeline has a cache.
    """
    if bound.cache is not None:
        raise UnsupportedPipelineError(
            f"{sampler} goes back to noisier steps, for which {bound.cache.name} has no schedule; "
            "call disable_cache first, or choose another search."
        )


def cache_hits(cache: RowCache | None) -> int:
    """Evaluations that a pipeline's cache has answered so far, in rows."""
    return 0 if cache is None else cache.report().reused


class _Follower:
    """Turns positions among the living rows into numbers of rows."""

    def __init__(self, cache: RowCache, live: LiveRows) -> None:
        self._cache, self._live = cache, live
        self._before = live.alive

    def __call__(self, positions: Sequence[int]) -> None:
        alive = self._live.alive
        sources = {row: self._before[place] for row, place in zip(alive, positions, strict=True)}
        self._cache.select(sources, self._live.num_rows)
        self._before = alive
