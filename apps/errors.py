"""The one place where a failure becomes a line on stderr and an exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import cast

import typer

from apps.console import plain_warnings, say
from gensift.errors import GensiftError

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Typer shows no name for the base of its usage errors, whose home differs between versions.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__base__)


def run(app: typer.Typer, name: str, argv: Sequence[str]) -> int:
    """Run a command and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C.

    The command finds the text of its own command line in `typer.Context.obj`.
    """
    try:
        with plain_warnings():
            command = shlex.join([name, *argv])
            code = app(args=list(argv), prog_name=name, standalone_mode=False, obj=command)
    except _UsageError as error:
        message = error.format_message()
        stop = "" if message.endswith((".", "?")) else "."
        return _fail(f"{message}{stop} See {name} --help.")
    except GensiftError as error:
        return _fail(str(error))
    except typer.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:
        say("Interrupted.")
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    say(f"error: {message}", style="red")
    return USER_ERROR
