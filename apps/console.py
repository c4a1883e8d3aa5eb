"""Where the commands write: results to stdout, everything about the run to stderr."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console

from gensift.conversion import strict_json
from gensift.errors import RenamedWarning

out = Console()
log = Console(stderr=True)

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
    """Write one line to stderr, unwrapped; brackets in it are text, not markup."""
    log.print(" ".join(message.split()), style=style, soft_wrap=True, markup=False, highlight=False)


def write_json(document: Any) -> None:
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
