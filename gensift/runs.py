"""Run folders: results that appear whole, and runs that resume after any interruption."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from gensift.config import config_hash
from gensift.conversion import Value, strict_json
from gensift.errors import RunFolderError
from gensift.files import remove_stale_temporaries, write_atomically
from gensift.json_files import DamagedError, checked, parse_json, read_object
from gensift.protocols import JsonObject
from gensift.run_records import PlanRecord, ResultRecord, SummaryRecord

if TYPE_CHECKING:
    from PIL.Image import Image

RESULTS = "results.jsonl"
SUMMARY = "run.json"
PLAN = "plan.json"
LOCK = ".gensift.lock"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


class RunFiles:
    """Writes files of a run that another process leads: no lock, results or summary."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write_image(
        self, name: str, image: Image, text_chunks: Mapping[str, str], *, compress_level: int = 6
    ) -> Path:
        """Write `image` as the PNG `name`, subfolders allowed, with text chunks; return its path.

        `compress_level` is zlib's: 1 takes half the time of 6, for files a quarter larger.

        Raises:
            RunFolderError: if it cannot be written; nothing is left behind then.
        """
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, text in text_chunks.items():
            info.add_itxt(key, text)  # international text: plain tEXt chunks are Latin-1 only
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", pnginfo=info, compress_level=compress_level)
        return self._write(name, buffer.getvalue())

    def write_json(self, name: str, content: Value) -> Path:
        """Write `content` as the strict JSON file `name`; return its path."""
        return self._write(name, (strict_json(content, indent=2) + "\n").encode())

    def _write(self, name: str, data: bytes) -> Path:
        target = self.path / name
        if not target.resolve().is_relative_to(self.path.resolve()):
            raise RunFolderError(f"{name!r} lies outside the run folder; give a name inside it.")
        with self._as_run_folder_error():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, data)
        return target

    @contextmanager
    def _as_run_folder_error(self) -> Iterator[None]:
        try:
            yield
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(
                f"Output folder {str(self.path)!r} cannot be written "
                f"({error.strerror or error}); choose a writable folder."
            ) from error


class RunFolder(RunFiles):
    """The folder a run writes to; opening it again with the same config resumes the run.

    `config` is everything that decides the results (sampler, model, reward, seed, ...).
    `pipeline_call` are the keyword arguments that, with a sample's seed, reproduce it by a plain
    pipeline call; None where none does. `versions` maps package names to versions. Use it in a
    `with` block, or `close()` it: the folder is locked against other processes meanwhile. A killed
    process leaves no lock.

    Raises:
        RunFolderError: if the folder cannot be written, is in use by another process, is damaged,
            or belongs to a run with another config (naming the keys that differ).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: Mapping[str, Value],
        command: str,
        pipeline_call: Mapping[str, Value] | None,
        versions: Mapping[str, str],
    ) -> None:
        super().__init__(path)
        self.config_hash = config_hash(config)
        self._summary = {
            "command": command,
            "config": config,
            "pipeline_call": pipeline_call,
            "versions": versions,
        }
        with self._as_run_folder_error():
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire_lock()
        try:
            with self._as_run_folder_error():
                self._open(config)
        except BaseException:
            self.close()
            raise

    def _open(self, config: Mapping[str, Value]) -> None:
        remove_stale_temporaries(self.path)
        before = self._read_summary()
        if before is not None and config_hash(before["config"]) != self.config_hash:
            self._refuse_config(_differing_keys(before["config"], config))
        self._results = self._read_results()
        if any(line.get("config_hash") != self.config_hash for line in self._results):
            self._refuse_config([])
        if before is None:
            self.write_summary({})

    def finished(self, prompts: Sequence[str] | None = None) -> set[int]:
        """Return the prompt indices that need no work: their line and all their files are there.

        With `prompts`, a line counts only if it was made for that very prompt.
        """
        return {
            line["prompt_index"]
            for line in self._results
            if self._has_files(line) and _is_for(line, prompts)
        }

    def lost(self) -> set[int]:
        """Return the prompt indices that have a line but not all of its files, or torn ones."""
        return {line["prompt_index"] for line in self._results if not self._has_files(line)}

    def results(self) -> list[JsonObject]:
        """Return the finished lines of `results.jsonl`, by prompt index."""
        lines = [line for line in self._results if self._has_files(line)]
        return sorted(lines, key=lambda line: int(line["prompt_index"]))

    def append_result(self, result: Mapping[str, Value]) -> None:
        """Add the line of one finished prompt; it is on disk when this returns.

        Write its images first. `result` has "prompt", "prompt_index", "samples" and "cost"; the
        config hash is added. An earlier line of that prompt index, whose files went missing or
        whose prompt changed, is replaced.
        """
        line = {**result, "config_hash": self.config_hash}
        text = strict_json(line) + "\n"
        kept = [old for old in self._results if old["prompt_index"] != line["prompt_index"]]
        with self._as_run_folder_error():
            if len(kept) < len(self._results):
                lines = "".join(strict_json(old) + "\n" for old in kept) + text
                write_atomically(self.path / RESULTS, lines.encode())
            else:
                _append(self.path / RESULTS, text.encode())
        self._results = [*kept, json.loads(text)]

    def write_summary(self, cost: Mapping[str, Value]) -> Path:
        """Write `run.json`: command, config, pipeline call, versions, and the run's `cost`."""
        return self.write_json(SUMMARY, {**self._summary, "cost": cost})

    def close(self) -> None:
        """Release the lock; harmless when repeated."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _acquire_lock(self) -> BinaryIO:
        # The file stays when the lock goes: once removed, two processes could lock two files.
        lock = (self.path / LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise RunFolderError(
                f"Output folder {str(self.path)!r} is in use by another process; "
                "wait for it to end or choose another folder."
            ) from error
        return lock

    def _read_summary(self) -> JsonObject | None:
        file = self.path / SUMMARY
        if not os.path.lexists(file):
            return None
        try:
            summary = read_object(file)
            checked(SummaryRecord, summary)
        except DamagedError as error:
            raise self._damaged(SUMMARY, error) from error
        return summary

    def _read_results(self) -> list[JsonObject]:
        """Read the results, cutting off a last line that a crash left torn."""
        file = self.path / RESULTS
        if not os.path.lexists(file):
            return []
        if not file.is_file():
            raise self._damaged(RESULTS, "it is no file")
        data = file.read_bytes()
        results: list[JsonObject] = []
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                results.append(_parse(line))
            except DamagedError as error:
                if number == len(lines) and _is_torn(line):
                    os.truncate(file, len(data) - len(line))
                    break
                raise self._damaged(RESULTS, f"line {number}: {error}") from error
        return results

    def read_plan(self) -> int | None:
        """Candidates per prompt that an earlier run has planned; None where none has.

        Raises:
            RunFolderError: `plan.json` is damaged.
        """
        file = self.path / PLAN
        if not os.path.lexists(file):
            return None
        try:
            return checked(PlanRecord, read_object(file)).num_candidates
        except DamagedError as error:
            raise self._damaged(PLAN, error) from error

    def _has_files(self, line: Mapping[str, Value]) -> bool:
        files = [sample["file"] for sample in line["samples"] if sample.get("file") is not None]
        return all(_is_whole(self.path / name) for name in files)

    def _refuse_config(self, keys: list[str]) -> None:
        differing = f" (differs in {', '.join(keys)})" if keys else ""
        raise RunFolderError(
            f"Output folder {str(self.path)!r} holds a run with another config{differing}; "
            "repeat that config to resume it, or choose another folder."
        )

    def _damaged(self, name: str, reason: object) -> RunFolderError:
        return RunFolderError(
            f"{str(self.path / name)!r} is damaged and cannot be resumed from ({reason}); "
            "move it away or choose another folder."
        )


def _parse(line: bytes) -> JsonObject:
    """A results line.

    Raises:
        DamagedError: it is torn, or not what a line should be.
    """
    if _is_torn(line):
        raise DamagedError("it is torn")
    parsed: JsonObject = parse_json(line)
    checked(ResultRecord, parsed)
    return parsed


def _is_torn(line: bytes) -> bool:
    """Whether a line is what a crash may leave, and not what somebody has written into it."""
    try:
        parsed = parse_json(line)
    except DamagedError:
        return True
    is_result = isinstance(parsed, dict) and {"prompt_index", "samples"} <= parsed.keys()
    return not (is_result and line.endswith(b"\n"))


def _is_whole(file: Path) -> bool:
    """Whether a sample's file is there; of a picture, whether its last part is."""
    if not file.is_file():
        return False
    if file.suffix.lower() != ".png":
        return True
    with file.open("rb") as stream:
        begins = stream.read(len(_PNG_START)) == _PNG_START
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - len(_PNG_END)))
        return begins and stream.read() == _PNG_END


def _append(file: Path, data: bytes) -> None:
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:  # a full disk or Ctrl-C: leave no torn line for the next one to join
        if file.exists():
            os.truncate(file, size)
        raise


def _is_for(line: Mapping[str, Value], prompts: Sequence[str] | None) -> bool:
    index = line["prompt_index"]
    return prompts is None or (index < len(prompts) and line.get("prompt") == prompts[index])


def _differing_keys(before: Mapping[str, Value], after: Mapping[str, Value]) -> list[str]:
    """Return the dotted keys whose values differ, each with both values."""
    left, right = _flattened(before), _flattened(after)
    return [
        f"`{key}`: {left.get(key, 'absent')} there, {right.get(key, 'absent')} now"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _flattened(mapping: Mapping[str, Value], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = strict_json(value)
    return flat
