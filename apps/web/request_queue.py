"""Who works when: one request at a time, in the order they came, each of which can be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from gensift.errors import ConfigError

FoundT = TypeVar("FoundT")

REFRESH_S = 0.3
"""Least time between two pictures of the work in progress."""


class Cancelled(Exception):
    """The work was stopped by whoever asked for it."""


class Task:
    """One request, from the time it waits until its work is over.

    Attributes:
        seconds: it has worked so far.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._is_cancelled = threading.Event()
        self._has_news = threading.Event()
        self._began: float | None = None

    def check(self) -> None:
        """Called by the work at every step.

        Raises:
            Cancelled: it shall stop.
            ConfigError: it took too long.
        """
        if self._is_cancelled.is_set():
            raise Cancelled
        if self.seconds > self._max_seconds:
            raise ConfigError(
                f"The request took more than {self._max_seconds:.0f} s, the most that is allowed "
                "here; ask for fewer candidates or steps."
            )

    def cancel(self) -> None:
        """Let the work stop at its next step."""
        self._is_cancelled.set()
        self._has_news.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether it shall stop."""
        return self._is_cancelled.is_set()

    def tell(self) -> None:
        """Say that there is something new to show."""
        self._has_news.set()

    def wait_for_news(self) -> None:
        """Wait until there is something new, or for a while."""
        self._has_news.wait(REFRESH_S)
        self._has_news.clear()

    @property
    def seconds(self) -> float:
        """Wall time since the work began; 0 while it waits."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def begin(self, work: Callable[[Task], FoundT]) -> FoundT:
        """Do the work; called in the thread that works."""
        self._began = time.monotonic()
        self.check()
        return work(self)


class RequestQueue:
    """Takes requests and works on them one after another, in a thread that stays the same.

    One at a time, because all of them share the device and the loaded pipelines.
    """

    def __init__(self, max_waiting: int, max_seconds: float) -> None:
        self._max_waiting, self._max_seconds = max_waiting, max_seconds
        self._lock = threading.Lock()
        self._line: list[tuple[str, Task]] = []
        self._is_closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gensift-work")

    def follow(
        self, session: str, work: Callable[[Task], FoundT], on_end: Callable[[FoundT], None]
    ) -> Iterator[int]:
        """Have `work(task)` done, and hand its result to `on_end`.

        Yields the number of requests before this one, whenever there may be something new to show.
        Whoever stops listening stops the work.

        Args:
            session: whose request it is.
            work: shall call `task.check()` at every step.
            on_end: gets what `work` returned, in the thread that listens.

        Raises:
            ConfigError: too many are waiting.
            Cancelled: the work was stopped, or the queue is closed.
        """
        task, future = self._enter(session, work)
        try:
            while not future.done():
                task.wait_for_news()
                if task.is_cancelled and future.cancel():  # it has not begun
                    break
                yield self._before(task)
                self._pace()
            on_end(future.result())
        except CancelledError:
            raise Cancelled from None
        finally:
            task.cancel()
            future.cancel()
            self._leave(task)

    def when_idle(self, work: Callable[[], None]) -> None:
        """Do some work for nobody in particular, before what is asked for later."""
        self._worker.submit(work)

    def cancel(self, session: str) -> int:
        """Stop all requests of a session; returns how many."""
        with self._lock:
            mine = [task for owner, task in self._line if owner == session]
        for task in mine:
            task.cancel()
        return len(mine)

    def close(self) -> None:
        """Stop all work; nothing is taken any more."""
        with self._lock:
            self._is_closed = True
            tasks = [task for _, task in self._line]
        for task in tasks:
            task.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits or is worked for."""
        return not self._line

    def _pace(self) -> None:
        time.sleep(REFRESH_S / 3)

    def _enter(self, session: str, work: Callable[[Task], FoundT]) -> tuple[Task, Future[FoundT]]:
        with self._lock:
            if self._is_closed:
                raise Cancelled
            if len(self._line) >= self._max_waiting:
                raise ConfigError(
                    f"{len(self._line)} requests are waiting, the most that are taken here; try "
                    "again in a minute."
                )
            task = Task(self._max_seconds)
            self._line.append((session, task))
            return task, self._worker.submit(task.begin, work)

    def _before(self, task: Task) -> int:
        with self._lock:
            return [other for _, other in self._line].index(task)

    def _leave(self, task: Task) -> None:
        with self._lock:
            self._line = [entry for entry in self._line if entry[1] is not task]
