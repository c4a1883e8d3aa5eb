"""Reading prompts: from the command line and from text, JSON lines and CSV files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gensift.errors import ConfigError

COLUMN = "prompt"


def gather_prompts(prompts: Sequence[str], file: str | None) -> list[str]:
    """Return `prompts` followed by those in `file`.

    Raises:
        ConfigError: if there are none, one is blank, or the file cannot be read.
    """
    if not prompts and file is None:
        raise ConfigError("No prompt was given; use --prompt TEXT or --prompts FILE.")
    if any(not prompt.strip() for prompt in prompts):
        raise ConfigError("`--prompt` is blank; say in words what to generate.")
    gathered = [*prompts, *(read_prompts(file) if file is not None else [])]
    for prompt in gathered:
        if not prompt.isascii() and prompt != prompt.encode(errors="ignore").decode():
            raise ConfigError(f"Prompt {prompt!r} is not valid Unicode; give it as UTF-8 text.")
    return gathered


def read_prompts(path: str | Path) -> list[str]:
    """Read the prompts of a .txt, .jsonl or .csv file, without white space around them.

    Text files hold one per line; blank lines and lines that start with # are skipped.

    Raises:
        ConfigError: if the file is absent, of another kind, malformed, or without prompts.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"Prompt file {str(path)!r} must end in {', '.join(_READERS)}; rename it."
        )
    # Universal newlines for all but CSV, whose quoted fields keep theirs.
    text = io.StringIO(_read_text(path), newline="" if reader is _read_csv else None)
    try:
        prompts = [prompt.strip() for prompt in reader(text)]
    except ValueError as error:
        raise ConfigError(f"Prompt file {str(path)!r}: {error}.") from error
    if not prompts:
        raise ConfigError(f"Prompt file {str(path)!r} holds no prompt; write at least one.")
    return prompts


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"Prompt file {str(path)!r} cannot be read: {error.strerror}; check the path."
        ) from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # hardly ever in text, nearly always in binary files
        raise ConfigError(f"Prompt file {str(path)!r} is not UTF-8 text; save it as such.")
    return text


def _read_lines(text: io.StringIO) -> Iterator[str]:
    for line in text:
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


def _read_jsonl(text: io.StringIO) -> Iterator[str]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is not JSON; write one object per line") from None
        found = row.get(COLUMN) if isinstance(row, dict) else None
        yield _checked(found, number, f"has no text under {COLUMN!r}")


def _read_csv(text: io.StringIO) -> Iterator[str]:
    reader = csv.DictReader(text, strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if COLUMN not in names:
            listed = ", ".join(map(repr, names)) or "none"
            raise ValueError(f"it has no column {COLUMN!r} (columns: {listed}); name it so")
        reader.fieldnames = names
        for row in reader:
            yield _checked(row[COLUMN], reader.line_num, f"has no text in column {COLUMN!r}")
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV ({error})") from error


def _checked(prompt: object, line: int, complaint: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"line {line} {complaint}")
    return prompt


_READERS: dict[str, Callable[[io.StringIO], Iterator[str]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
}
