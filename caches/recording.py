"""What the recorders of all caches have in common: they keep nothing for reuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from caches.cache import DenoiserCache
from gensift.errors import UnsupportedPipelineError

Statistics = TypeVar("Statistics")


class RecordingPart(DenoiserCache):
    """A part that watches a denoiser; recording runs under no search."""

    def select(self, sources: Mapping[int, int], num_candidates: int) -> None:
        """See `DenoiserCache.select`."""

    @property
    def num_bytes(self) -> int:
        """See `DenoiserCache.num_bytes`; not counted."""
        return 0


def recorded(statistics: Statistics | None) -> Statistics:
    """What was recorded.

    Raises:
        UnsupportedPipelineError: no schedule was made before the denoiser ran, or it never ran.
    """
    if statistics is None:
        raise UnsupportedPipelineError(
            "This pipeline cannot be recorded: it denoises outside of its scheduler's loop. Give a "
            "pipeline that calls scheduler.set_timesteps first."
        )
    return statistics
