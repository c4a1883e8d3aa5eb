"""How much of a planned search is done, reported as it goes."""

from __future__ import annotations

from gensift.cost import Cost
from samplers.output import Progress


class ProgressCounts:
    """Counts decodes and scorings of one call, and reports them against the plan."""

    def __init__(self, progress: Progress | None, planned: Cost) -> None:
        """Report to `progress`, if there is one; totals are those of the `planned` cost."""
        self._progress = progress or (lambda event, done, total: None)
        self._totals = {
            "decode": planned.decodes + planned.preview_decodes,
            "reward": max(planned.reward_calls.values(), default=0),
        }
        self._done = dict.fromkeys(self._totals, 0)

    def add(self, event: str, count: int) -> None:
        """Report `count` more of "decode" or "reward"."""
        self._done[event] += count
        self._progress(event, self._done[event], self._totals[event])

    def scale_drawn(self, done: int, total: int) -> None:
        """Report that `done` of `total` scales are drawn."""
        self._progress("scale", done, total)
