"""Which rows of a pipeline's denoiser call are running, told by who splits the call.

A hook below a row gate sees some rows at a time, and what it keeps of them between steps must be
kept by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class WholeCall:
    """A denoiser call as the pipeline makes it; its parts share this object.

    Attributes:
        num_rows: rows of the call.
        num_candidates: rows per guidance group.
    """

    num_rows: int
    num_candidates: int


@dataclass(frozen=True)
class RowsInCall:
    """Some rows of a call.

    Attributes:
        call: the call as the pipeline makes it.
        rows: the numbers, in that call, of the rows that run now; in the order of the batch.
    """

    call: WholeCall = field(compare=False)
    rows: tuple[int, ...]


_current: ContextVar[RowsInCall | None] = ContextVar("rows_in_call", default=None)


@contextmanager
def running_rows(rows: RowsInCall) -> Iterator[None]:
    """Tell hooks below that `rows` are running."""
    token = _current.set(rows)
    try:
        yield
    finally:
        _current.reset(token)


def rows_in_call(num_rows: int) -> RowsInCall:
    """Who runs in a denoiser call of `num_rows` rows: as told, else all of them."""
    told = _current.get()
    if told is not None:
        return told
    return RowsInCall(WholeCall(num_rows, num_rows), tuple(range(num_rows)))
