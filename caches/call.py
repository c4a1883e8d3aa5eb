"""A denoiser call as a cache sees it: which step, which context, which rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from gensift.denoising.rows_in_call import RowsInCall, WholeCall


@dataclass(frozen=True)
class CachedCall:
    """Some rows of one denoiser call.

    Attributes:
        step_index: place in the schedule; None outside of a run that the clock follows.
        context: what tells the calls of one step apart (conditional and unconditional, say); the
            same at every step.
        branch: a short text for `context`, the same in every run: that of `cache_context` where
            the pipeline gives one, else the number of the call in its step.
        rows: who runs.
        is_continuous: whether all these rows ran at the step before, in this context: what was kept
            of them then is theirs, and one step old at most.
    """

    step_index: int | None
    context: Hashable
    branch: str
    rows: RowsInCall
    is_continuous: bool


class CallLedger:
    """Tells the calls of a denoiser apart and remembers which rows ran at which step."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a new run."""
        self._step: int | None = None
        self._calls: dict[str, list[WholeCall]] = {}
        self._seen: dict[tuple[Hashable, int], int] = {}

    def enter(self, step_index: int | None, name: str | None, rows: RowsInCall) -> CachedCall:
        """Enter a call of `rows` at `step_index`, made in the pipeline's context `name`."""
        if step_index != self._step:
            self._step, self._calls = step_index, {}
        number = self._number(name or "", rows.call)
        branch = name if name and number == 0 else f"{name or ''}{number}"
        # Where guidance stops in mid-run, rows change their meaning with the size of the call.
        context = branch, rows.call.num_rows
        is_continuous = step_index is not None and all(
            self._seen.get((context, row)) == step_index - 1 for row in rows.rows
        )
        if step_index is not None:
            self._seen |= {(context, row): step_index for row in rows.rows}
        return CachedCall(step_index, context, branch, rows, is_continuous)

    def select(self, sources: dict[int, int], num_candidates: int) -> None:
        """See `RowStore.select`."""
        moved = {}
        for (context, row), step in self._seen.items():
            group, candidate = divmod(row, num_candidates)
            for target, source in sources.items():
                if source == candidate:
                    moved[context, group * num_candidates + target] = step
        self._seen = moved

    def _number(self, name: str, call: WholeCall) -> int:
        """How many calls of this name came before in this step; parts of one call are one."""
        calls = self._calls.setdefault(name, [])
        if all(call is not known for known in calls):
            calls.append(call)
        return next(number for number, known in enumerate(calls) if known is call)
