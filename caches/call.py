"""A denoiser call as a cache sees it: which step, which context, which rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from gensift.denoising.rows_in_call import RowsInCall, WholeCall

Batch: TypeAlias = Tensor | Sequence[object]
"""Latents as a denoiser takes them: a tensor `(rows, ...)`, or a list with an entry per row."""


@dataclass(frozen=True)
class CachedCall:
    """Some rows of one denoiser call.

    Attributes:
        step_index: place in the schedule; None outside of a run that the clock follows.
        context: what tells the calls of one step apart (conditional and unconditional, say); the
            same at every step, unless rows change their size or type.
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

    def enter(
        self, step_index: int | None, name: str | None, rows: RowsInCall, layout: Hashable = None
    ) -> CachedCall:
        """A call that begins at `step_index`, made in the pipeline's context `name`.

        Args:
            step_index: place in the schedule; None outside of a run.
            name: the pipeline's own name for the context.
            rows: who runs.
            layout: of the rows, see `layout_of`.
        """
        if step_index != self._step:
            self._step, self._calls = step_index, {}
        number = self._number(name or "", rows.call)
        branch = name if name and number == 0 else f"{name or ''}{number}"
        # Where guidance stops in mid-run, rows change their meaning with the size of the call.
        context = branch, rows.call.num_rows, layout
        is_continuous = step_index is not None and all(
            self._seen.get((context, row)) == step_index - 1 for row in rows.rows
        )
        return CachedCall(step_index, context, branch, rows, is_continuous)

    def leave(self, call: CachedCall) -> None:
        """Enter in the ledger that `call` came to its end; one that failed may be made again."""
        if call.step_index is not None:
            self._seen |= {(call.context, row): call.step_index for row in call.rows.rows}

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


def layout_of(batch: Batch) -> Hashable:
    """Shape, type and device of the rows of a batch: a tensor, or a list with an entry per row."""
    if isinstance(batch, Tensor):
        return batch.shape[1:], batch.dtype, batch.device
    return frozenset(map(_layout_of_row, batch))


def _layout_of_row(row: object) -> Hashable:
    # Z-Image with pictures as further input gives several tensors per row.
    if isinstance(row, list | tuple):
        return tuple(map(_layout_of_row, row))
    return (row.shape, row.dtype, row.device) if isinstance(row, Tensor) else None
