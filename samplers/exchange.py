"""Working in step with other processes: scores travel between them, pictures never."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from gensift.errors import ProcessError, ProcessLostError

T = TypeVar("T")

SILENCE_S = 1800.0
"""Seconds without a word after which a process that did not die counts as lost."""


class Exchange(Protocol):
    """What processes that search together tell each other.

    Every process makes the same calls in the same order; each call waits for all of them.

    Attributes:
        rank: number of this process; number 0 writes and speaks for all.
        local_rank: its number among those of its machine.
        size: how many processes there are.
    """

    @property
    def rank(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their numbers.

        Raises:
            ProcessError: one of them called `fail` instead.
            ProcessLostError: one of them died, or was silent for too long.
        """
        ...

    def fail(self, reason: str) -> str:
        """End the others' wait by a `ProcessError`; returns the reason that all of them know."""
        ...

    def leave(self) -> None:
        """Call last, after success or `fail`: nobody goes before all have come here.

        Launchers end all processes as soon as one has failed, which shall not cut off the first
        one's last words. Who was interrupted just goes: the others notice.
        """
        ...


class Alone:
    """No other process."""

    rank = local_rank = 0
    size = 1

    def gather(self, value: T) -> list[T]:
        """The one value."""
        return [value]

    def fail(self, reason: str) -> str:
        """The same `reason`."""
        return reason

    def leave(self) -> None:
        """Do nothing."""


ALONE = Alone()


@dataclass(frozen=True)
class _Message:
    value: Any = None
    failure: str | None = None


class AcrossProcesses:
    """The processes that `accelerate launch` or `torchrun` started, joined by accelerate.

    Messages go through gloo on GPUs too: they are a few numbers that lie on the CPU anyway, and
    gloo notices a dead process at once, where NCCL would wait for its timeout.
    """

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        """Join; waits until all processes have come.

        Raises:
            ProcessLostError: they did not come in time.
        """
        from accelerate import PartialState

        self._silence_s = silence_s
        self._is_over = self._is_lost = False
        try:
            self._state = PartialState(cpu=True, timeout=timedelta(seconds=silence_s))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ProcessLostError(f"The processes of this run cannot meet: {reason}.") from error

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self._state.process_index)

    @property
    def local_rank(self) -> int:
        """Its number among those of its machine."""
        return int(self._state.local_process_index)

    @property
    def size(self) -> int:
        """Number of processes."""
        return int(self._state.num_processes)

    def gather(self, value: T) -> list[T]:
        """See `Exchange.gather`."""
        return [message.value for message in self._swap(_Message(value))]

    def fail(self, reason: str) -> str:
        """See `Exchange.fail`; harmless when the others know already."""
        if self._is_over:
            return reason
        try:
            self._swap(_Message(failure=reason))
        except ProcessLostError:
            return reason
        except ProcessError as error:
            return str(error)
        return reason

    def leave(self) -> None:
        """See `Exchange.leave`."""
        if self._is_lost:
            return  # the connections end with this process
        try:
            self._state.wait_for_everyone()
        except RuntimeError:
            return
        self._state.destroy_process_group()

    def _swap(self, message: _Message) -> list[_Message]:
        from accelerate.utils import gather_object

        if self._is_over:
            raise ProcessLostError("This run has ended already; start it anew.")
        try:
            messages: list[_Message] = gather_object([message])
        except ProcessLostError:  # by a signal, while waiting
            self._is_over = self._is_lost = True
            raise
        except RuntimeError as error:  # of gloo: a connection was closed, or silent for too long
            self._is_over = self._is_lost = True
            raise ProcessLostError(
                f"Process {self.rank} of {self.size} lost another one, which died or was silent "
                f"for {self._silence_s:g} s."
            ) from error
        failures = [m.failure for m in messages if m.failure is not None]
        if failures:
            # Everybody knows it from this very exchange, so nobody has to be told again.
            self._is_over = True
            raise ProcessError(failures[0])
        return messages


def own_candidates(exchange: Exchange, count: int) -> tuple[int, ...]:
    """Which candidates of a prompt this process draws: every `size`-th, from its own number on."""
    return tuple(range(exchange.rank, count, exchange.size))
