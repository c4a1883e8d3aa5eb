"""The one place where a failure becomes a line on stderr and an exit code."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import cast

import typer

from apps.console import accept_all_characters, log, plain_warnings, say, write
from gensift import __version__
from gensift.errors import GensiftError, ProcessLostError
from samplers.exchange import ALONE, Exchange

VERSION = "--version"
USER_ERROR = 2
PROCESS_LOST = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Typer shows no name for the base of its usage errors, whose home differs between versions.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)


@dataclass(frozen=True)
class Invocation:
    """What a command finds in `typer.Context.obj`.

    Attributes:
        command: the text of its command line.
        exchange: the processes that run it together.
    """

    command: str
    exchange: Exchange


def run(
    app: typer.Typer,
    name: str,
    argv: Sequence[str],
    processes: Callable[[], AbstractContextManager[Exchange]] = lambda: nullcontext(ALONE),
) -> int:
    """Run a command; returns its exit code.

    0, 2 for a user's mistake, 3 where another process was lost, 130 for Ctrl-C. A failure of one of
    the `processes` is that of all, and said once.
    """
    accept_all_characters()
    if next((text for text in argv if text.startswith("-")), None) == VERSION:
        # The first option, so it is the value of none.
        write(f"gensift {__version__}")
        return 0
    with plain_warnings(), ExitStack() as stack:
        exchange: Exchange = ALONE
        try:
            exchange = stack.enter_context(processes())
            invocation = Invocation(shlex.join([name, *argv]), exchange)
            code = app(args=list(argv), prog_name=name, standalone_mode=False, obj=invocation)
            if code != INTERRUPTED:
                exchange.gather(None)
                exchange.leave()
        except _UsageError as error:
            message = error.format_message()
            stop = "" if message.endswith((".", "?")) else "."
            return _fail(f"{message}{stop} See {name} --help.", exchange)
        except ProcessLostError as error:
            # Whoever is left has to say it, and goes without waiting: the others may never come.
            log.quiet = False
            say(f"error: {error}", style="red")
            return PROCESS_LOST
        except GensiftError as error:
            return _fail(str(error), exchange)
        except typer.Abort:
            code = INTERRUPTED
        if code == INTERRUPTED:
            say("Interrupted.")
        return code if isinstance(code, int) else 0


def _fail(message: str, exchange: Exchange) -> int:
    say(f"error: {exchange.fail(message)}", style="red")
    exchange.leave()
    return USER_ERROR
