"""The prompts of a run: from the command line and from files, each with settings of its own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from apps.jobs.prompt_files import PromptRow, read_rows
from gensift.errors import ConfigError

__all__ = ["PromptRow", "gather_prompts", "gather_rows", "read_prompts"]


def gather_rows(
    prompts: Sequence[str], file: str | None, column: str | None = None
) -> list[PromptRow]:
    """Return `prompts` followed by the rows of `file`.

    Args:
        prompts: texts of the command line.
        file: see `read_rows`.
        column: the file's column or key that holds the prompts; by default a usual name.

    Raises:
        ConfigError: if there are none, one is blank, or the file cannot be read.
    """
    if not prompts and file is None:
        raise ConfigError("No prompt was given; use --prompt TEXT or --prompts FILE.")
    if column is not None and file is None:
        raise ConfigError(
            f"`--prompt-column` is {column!r}, but there is no file of prompts; give --prompts "
            "FILE, or leave it out."
        )
    if any(not prompt.strip() for prompt in prompts):
        raise ConfigError("`--prompt` is blank; say in words what to generate.")
    of_file = [] if file is None else read_rows(file, column)
    gathered = [*(PromptRow(prompt) for prompt in prompts), *of_file]
    for row in gathered:
        for text in (row.text, str(row.call.get("negative_prompt", ""))):
            _check_unicode(text)
    return gathered


def gather_prompts(
    prompts: Sequence[str], file: str | None, column: str | None = None
) -> list[str]:
    """The texts of `gather_rows`, for commands that draw all prompts with the same settings.

    Warns of columns with settings of single prompts, which are not used.
    """
    rows = gather_rows(prompts, file, column)
    if unused := sorted({name for row in rows for name in row.settings}):
        warnings.warn(
            f"{file} has {', '.join(unused)} of single prompts, which this command does not use; "
            "it draws all prompts with the same settings.",
            stacklevel=2,
        )
    return [row.text for row in rows]


def read_prompts(path: str | Path, column: str | None = None) -> list[str]:
    """The texts of a file of prompts; see `read_rows`."""
    return [row.text for row in read_rows(path, column)]


def _check_unicode(text: str) -> None:
    if not text.isascii() and text != text.encode(errors="ignore").decode():
        raise ConfigError(f"Prompt {text!r} is not valid Unicode; give it as UTF-8 text.")
