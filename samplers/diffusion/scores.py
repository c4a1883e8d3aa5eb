"""What one round of scoring found, in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """Scores of living candidates after a step.

    Attributes:
        step_index, num_inference_steps, sigma, timestep: as in `gensift.trace.Stage`.
        rows: ascending numbers of the candidates, over all prompts and processes.
        scores: per reward one value for each of `rows`; float32 values, exact in Python's floats.
        previews: small pictures by row, where they are kept.
    """

    step_index: int
    num_inference_steps: int
    sigma: float
    timestep: float
    rows: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]]
    previews: Mapping[int, Any] = field(default_factory=dict)

    def without_previews(self) -> RoundScores:
        """The part that other processes are told."""
        return replace(self, previews={})


def merged(parts: Sequence[RoundScores | None]) -> RoundScores:
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
