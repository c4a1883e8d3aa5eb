"""Joining the processes that `accelerate launch` or `torchrun` has started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from apps.console import only_errors, say
from gensift.errors import ConfigError, ProcessLostError
from samplers.exchange import ALONE, SILENCE_S, AcrossProcesses, Exchange

SILENCE = "GENSIFT_SILENCE_S"
"""Environment variable: seconds without a word after which a process counts as lost."""

# Those that accelerate reads; launchers by MPI set the others.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@contextmanager
def joined() -> Iterator[Exchange]:
    """The other processes of this run, if a launcher has started any; else nobody.

    All but the first process are silent from here on.

    Raises:
        ConfigError: the environment names no sensible time of silence.
        ProcessLostError: the others did not come.
    """
    if not any(os.environ.get(name, "1") not in ("", "1") for name in _SIZES):
        _warn_of_a_single_process()
        yield ALONE
        return
    exchange = AcrossProcesses(_silence_s())
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        with only_errors(is_asked=exchange.rank > 0):
            yield exchange
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise ProcessLostError(
        "This process was told to end (SIGTERM), as launchers do when another one has died."
    )


def _silence_s() -> float:
    text = os.environ.get(SILENCE, str(SILENCE_S))
    try:
        seconds = float(text)
        if not 0 < seconds < 1e7:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{SILENCE} is {text!r}; give seconds above 0, or leave it unset ({SILENCE_S:g})."
        ) from None
    return seconds


def _warn_of_a_single_process() -> None:
    """`accelerate launch --cpu` starts one process without MPI, whatever number it is given."""
    if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ:
        say(
            "warning: accelerate has started one process only, as it starts several on CPUs by MPI "
            "alone; use torchrun --nproc-per-node N, or accelerate launch --multi_gpu.",
            style="yellow",
        )
