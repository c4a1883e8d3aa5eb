"""Where the commands write: results to stdout, everything about the run to stderr.

Whatever a user wrote (a prompt, a name, a path) is shown as it is, and this is the one place that
sees to it: no word is markup or the name of an emoji, and nothing in it steers the terminal.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from gensift.conversion import strict_json
from gensift.errors import RenamedWarning

WIDE = 10_000
"""Columns of what is no terminal, but a pipe or a file: there nothing is cut or wrapped."""


def visible(text: str) -> str:
    """`text` with all that would steer a terminal written out, such as \\x1b for an escape.

    Line breaks and tabs stay; other control characters, marks that turn the direction of text, and
    halves of characters, which no encoding takes, do not.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    is_steering = unicodedata.category(character) in ("Cc", "Cs") or character in _DIRECTIONS
    if not is_steering or character in "\n\t":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


class PlainConsole(Console):
    """A console for which every text is a text, also the cells and titles of tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        """`text` as it is, whatever markup or emoji a caller asks for."""
        # Rich writes spaces for tabs in any case, and tables measure them only like this.
        return super().render_str(
            visible(text).expandtabs(),
            **{**options, "markup": False, "emoji": False, "highlight": False},
        )

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner beside `status`, for as long as the block runs."""
        shown = Text(visible(status)) if isinstance(status, str) else status
        return super().status(shown, **options)


def _console(*, stderr: bool = False) -> Console:
    console = PlainConsole(stderr=stderr)
    if not console.file.isatty():
        console.width = WIDE
    return console


out = _console()
log = _console(stderr=True)

_NOISY = (
    "torch",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "open_clip",
    "timm",
    "accelerate",
)


def say(message: str, *, style: str = "") -> None:
    """Write one line to stderr, unwrapped."""
    log.print(re.sub(r"\s*[\r\n]\s*", " ", message.strip()), style=style, soft_wrap=True)


def write(text: str) -> None:
    """Write text to stdout, unwrapped."""
    out.print(text, soft_wrap=True)


def write_heading(name: str, text: str = "") -> None:
    """Write `name` in bold to stdout, and `text` behind it."""
    out.print(Text.assemble((visible(name), "bold"), visible(text)), soft_wrap=True)


def accept_all_characters() -> None:
    """Let stdout and stderr write out what their encoding lacks, rather than fail on it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def write_json(document: object) -> None:
    """Write one strict JSON document to stdout."""
    out.out(strict_json(document, indent=2), highlight=False)


@contextmanager
def only_json(is_asked: bool) -> Iterator[None]:
    """Keep stdout clear for the one document of `--json`, whatever a plugin prints."""
    if not is_asked:
        yield
        return
    with redirect_stdout(log.file):
        yield


@contextmanager
def only_errors(is_asked: bool) -> Iterator[None]:
    """Say and print nothing; what Python itself writes to stderr still shows."""
    if not is_asked:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        log.quiet = True
        try:
            yield
        finally:
            log.quiet = False


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as single `warning:` lines, and those of libraries not at all."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        say(f"warning: {message}", style="yellow")

    with warnings.catch_warnings():
        for name in _NOISY:
            warnings.filterwarnings("ignore", module=rf"{name}\b")
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.simplefilter("default", RenamedWarning)
        warnings.showwarning = show
        yield


def silence_libraries() -> None:
    """Turn off the progress bars and notices of diffusers and transformers; errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
