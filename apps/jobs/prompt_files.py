"""Files of prompts as people have them: lines, tables with a head, and JSON."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from gensift.errors import ConfigError, nearest_hint
from gensift.protocols import CallArguments, JsonObject
from gensift.randomness import candidate_seeds

TEXT_COLUMNS = ("prompt", "prompts", "text", "caption", "captions")
"""Columns or keys that hold prompts, in any case; the first of these that is there counts."""
DELIMITERS = ",;\t"
MAX_NAMED = 5
"""Most lines that a warning names."""

Record: TypeAlias = Mapping[str, object]
"""The cells of one line by the names of their columns, as the file writes them."""
NumberedRows: TypeAlias = Iterator[tuple[int, "PromptRow"]]


@dataclass(frozen=True)
class PromptRow:
    """A prompt, and what its line of the file sets for it alone.

    Attributes:
        text: the prompt, without white space around it.
        seed: number that its randomness derives from; None for that of the run.
        call: keyword arguments of the pipeline call for this prompt: `negative_prompt`, `width`
            and `height` (pixels), as far as they are set.
    """

    text: str
    seed: int | None = None
    call: CallArguments = field(default_factory=dict)

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of what is set for this prompt alone."""
        return tuple(self.own)

    @property
    def own(self) -> JsonObject:
        """What is set for this prompt alone, by name."""
        return {**({} if self.seed is None else {"seed": self.seed}), **self.call}

    def seeds(self, run_seed: int, index: int, count: int) -> list[int]:
        """Seeds of the candidates of prompt `index`.

        With a seed of its own a prompt has those that it has alone in a run of that seed.
        """
        if self.seed is None:
            return candidate_seeds(run_seed, index, count)
        return candidate_seeds(self.seed, 0, count)


def read_rows(path: str | Path, column: str | None = None) -> list[PromptRow]:
    """Read a file of prompts; its ending says how.

    `.txt` holds one prompt per line; blank lines and lines that start with # are skipped. `.csv`
    and `.tsv` have a head; the delimiter of a `.csv` is read off it, or off a line `sep=;` before
    it. `.jsonl` holds an object or a string per line, `.json` a list of them. Encoded as UTF-8,
    or as UTF-16 with a byte order mark. Tables and objects may set `seed`, `negative_prompt`,
    `width` and `height` of single prompts.

    Args:
        path: of the file.
        column: the column or key with the prompts; by default the first of `TEXT_COLUMNS`.

    Raises:
        ConfigError: if the file is absent, of another kind, malformed, or without prompts.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"Prompt file {str(path)!r} must end in {', '.join(_READERS)}; rename it."
        )
    if column is not None and reader is _read_lines:
        raise ConfigError(
            f"`--prompt-column` is {column!r}, but {str(path)!r} is plain text, which has no "
            "columns; leave it out."
        )
    text = _read_text(path)
    try:
        rows = list(reader(text, column))
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"Prompt file {str(path)!r}: {error}.") from error
    if not rows:
        raise ConfigError(f"Prompt file {str(path)!r} holds no prompt; write at least one.")
    if reader is _read_lines:
        _warn_of_suspicious_lines(path, rows)
    return [row for _, row in rows]


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Prompt file {str(path)!r} cannot be read: {error.strerror}; check the path."
        ) from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # hardly ever in text, nearly always in binary files
        raise ConfigError(f"Prompt file {str(path)!r} is not UTF-8 text; save it as such.")
    return text


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers; \\r\\n and \\r end a line, too."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line


# Plain text


def _read_lines(text: str, column: str | None) -> NumberedRows:
    for number, line in _lines(text):
        if not line.lstrip().startswith("#"):
            yield number, PromptRow(line.strip())


_OPTION = re.compile(r"(?:^|\s)(?:--[a-z][\w-]*|-[a-z] ?\d[\d.]*)(?=[\s=]|$)", re.IGNORECASE)
"""Such as `--seed 5` or `-n4`, which other programs read off the lines of such files."""


def _warn_of_suspicious_lines(path: Path, rows: Sequence[tuple[int, PromptRow]]) -> None:
    """Say which lines are prompts here and something else in other programs, each kind once."""
    comments = [number for number, row in rows if row.text.startswith("//")]
    options = [number for number, row in rows if _OPTION.search(row.text)]
    advice = {
        "begins with //, which is part of the prompt here; begin comments with #": comments,
        "looks like options, which are part of the prompt here; give them on the command line, or "
        "in a .csv file with columns such as seed": options,
    }
    for what, numbers in advice.items():
        if numbers:
            warnings.warn(f"{path}, {_named(numbers)} {what}.", stacklevel=4)


def _named(numbers: Sequence[int]) -> str:
    """Such as "each of lines 2, 3 and 7 more"."""
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"each of lines {', '.join(map(str, numbers[:MAX_NAMED]))}{more}"


# Tables


def _read_csv(text: str, column: str | None) -> NumberedRows:
    declared, body, skipped = _declared_delimiter(text)
    delimiter = declared or _delimiter_of(body, column)
    yield from _read_table(body, column, delimiter, skipped)


def _read_tsv(text: str, column: str | None) -> NumberedRows:
    try:
        rows = list(_read_table(text, column, "\t", 0))
    except csv.Error:
        # Quotes are but characters in many such files, and then need not be closed.
        rows = list(_read_table(text, column, "\t", 0, is_quoted=False))
    yield from rows


def _declared_delimiter(text: str) -> tuple[str | None, str, int]:
    """What a line `sep=;` says, as spreadsheets write it; the rest; and how many lines it took."""
    first, _, rest = text.partition("\n")
    found = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r"), re.IGNORECASE)
    return (found[1], rest, 1) if found else (None, text, 0)


def _delimiter_of(text: str, column: str | None) -> str:
    """The delimiter that makes a column of prompts; a comma where none does."""
    for delimiter in DELIMITERS:
        head = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        if _text_column(head, column) is not None:
            return delimiter
    return ","


def _read_table(
    text: str, column: str | None, delimiter: str, skipped: int, is_quoted: bool = True
) -> NumberedRows:
    """Rows with the number of the line that they end on, after `skipped` lines before `text`."""
    # Quoted fields keep their line breaks as they are.
    lines = io.StringIO(text, newline="")
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, strict=is_quoted, quoting=quoting)
    try:
        head = [name.strip() for name in next(reader, [])]
        name = _text_column(head, column)
        if name is None:
            raise ValueError(_no_column(head, column))
        for cells in reader:
            if any(cell.strip() for cell in cells):  # spreadsheets leave rows of nothing
                number = reader.line_num + skipped
                yield number, _row(dict(zip(head, cells, strict=False)), name, number)
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num + skipped} is not CSV ({error})") from error


def _no_column(head: Sequence[str], column: str | None) -> str:
    listed = ", ".join(map(repr, head)) or "none"
    if column is not None:
        return f"it has no column {column!r} (columns: {listed}){nearest_hint(column, head)}"
    return (
        f"it has no column {TEXT_COLUMNS[0]!r} (columns: {listed}); name it so, or say which by "
        "--prompt-column"
    )


# JSON


def _read_jsonl(text: str, column: str | None) -> NumberedRows:
    for number, line in _lines(text):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"line {number} is not JSON; write one object per line") from None
        yield number, _entry(entry, column, f"line {number}")


def _read_json(text: str, column: str | None) -> NumberedRows:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            "it is not JSON; write a list of prompts, or one object per line in a .jsonl file"
        ) from None
    if not isinstance(entries, list):
        raise ValueError('it is no list; write one of texts or objects, such as ["a red circle"]')
    for number, entry in enumerate(entries, start=1):
        yield number, _entry(entry, column, f"entry {number}")


def _entry(entry: object, column: str | None, where: str) -> PromptRow:
    if isinstance(entry, str) and entry.strip():
        return PromptRow(entry.strip())
    record = entry if isinstance(entry, dict) else {}
    name = _text_column(list(record), column)
    if name is None:
        raise ValueError(
            f"{where} has no text under {column or TEXT_COLUMNS[0]!r}; write it so, or say which "
            "key it has by --prompt-column"
        )
    return _row(record, name, where)


# From a record to a row


def _text_column(names: Sequence[str], column: str | None) -> str | None:
    """Which of `names` holds the prompts."""
    if column in names:
        return column
    by_folded = {name.strip().casefold(): name for name in reversed(names)}
    wanted = TEXT_COLUMNS if column is None else (column.strip().casefold(),)
    return next((by_folded[name] for name in wanted if name in by_folded), None)


def _row(record: Record, name: str, where: int | str) -> PromptRow:
    """The prompt of `record` under `name`, and its settings; `where` is a line, for messages.

    Raises:
        ValueError: there is no text, or a setting is none.
    """
    where = f"line {where}" if isinstance(where, int) else where
    text = record.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no text in column {name!r}")
    # The prompt's own column sets nothing, whatever it is called.
    given = {
        re.sub(r"[\s-]+", "_", key.strip().casefold()): value
        for key, value in record.items()
        if key != name and value is not None and str(value).strip()
    }
    sizes: JsonObject = {
        key: _whole(given[key], f"{where} has {key}", at_least=1)
        for key in ("width", "height")
        if key in given
    }
    negative = given.get("negative_prompt")
    if negative is not None and not isinstance(negative, str):
        raise ValueError(f"{where} has negative_prompt {negative!r}; give a text")
    seed = _whole(given["seed"], f"{where} has seed", at_least=0) if "seed" in given else None
    negatives = {} if negative is None else {"negative_prompt": negative.strip()}
    return PromptRow(text.strip(), seed, {**negatives, **sizes})


def _whole(value: object, what: str, *, at_least: int) -> int:
    number = value if type(value) is int else None
    # More digits than any seed or size has are no number, and slow to read.
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        number = int(value)
    if number is None or not at_least <= number < 2**63:
        raise ValueError(f"{what} {value!r}; give a whole number from {at_least} on, or nothing")
    return number


_READERS: dict[str, Callable[[str, str | None], NumberedRows]] = {
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
