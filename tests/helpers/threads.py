"""Several searches at once that exchange scores, one per thread, in the place of processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
TIMEOUT_S = 120


@dataclass
class Meeting:
    """Where the threads of a run meet; `sent` is all that was ever exchanged, in rounds."""

    size: int
    sent: list[list[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=TIMEOUT_S)
        self.table: list[Any] = [None] * self.size


@dataclass
class InThread:
    """An `Exchange` of one thread."""

    rank: int
    meeting: Any

    @property
    def local_rank(self) -> int:
        return self.rank

    @property
    def size(self) -> int:
        return self.meeting.size

    def gather(self, value: T) -> list[T]:
        self.meeting.table[self.rank] = value
        self.meeting.barrier.wait()
        found = list(self.meeting.table)
        if self.meeting.barrier.wait() == 0:
            self.meeting.sent.append(found)
        return found

    def fail(self, reason: str) -> str:
        self.meeting.barrier.abort()
        return reason

    def leave(self) -> None: ...


def in_threads(size: int, work: Callable[[InThread], T]) -> tuple[list[T], Meeting]:
    """What `work` returns in each of `size` threads, and what they told each other."""
    meeting = Meeting(size)

    def run(rank: int) -> T:
        try:
            return work(InThread(rank, meeting))
        except BaseException:
            meeting.barrier.abort()  # or the others would wait for long
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size))), meeting
