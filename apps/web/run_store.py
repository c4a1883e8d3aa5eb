"""The run folders of the app: listed, looked into, and nothing outside of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensift.errors import ConfigError
from gensift.files import TEMPORARY_PATTERN
from gensift.protocols import JsonObject
from gensift.runs import LOCK, RESULTS, SUMMARY

STEPS = "steps.json"
"""Texts after every step, of runs that wrote texts."""
PROFILE = "profile.json"
"""The cache profile of runs that calibrated one."""


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: of the folder.
        summary: what `run.json` holds.
        lines: of `results.jsonl`.
    """

    path: Path
    summary: JsonObject
    lines: list[JsonObject]

    @property
    def files(self) -> list[Path]:
        """All files that may be looked at."""
        hidden = (LOCK, TEMPORARY_PATTERN.split("*")[0])
        found = [f for f in self.path.iterdir() if f.is_file() and not f.is_symlink()]
        return sorted(f for f in found if not f.name.startswith(hidden))

    def file(self, name: str) -> Path | None:
        """One of `files` by name, or None."""
        return next((file for file in self.files if file.name == name), None)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file, or None where there is none."""
        file = self.file(name)
        return None if file is None else json.loads(file.read_bytes())


class RunStore:
    """The runs in one folder, by the names of their folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, holding: str = SUMMARY) -> list[str]:
        """Runs that hold a file of this name, newest first."""
        folders = [f for f in self._root.iterdir() if f.is_dir() and not f.is_symlink()]
        return sorted((f.name for f in folders if (f / holding).is_file()), reverse=True)

    def open(self, name: object) -> Run:
        """Read a run.

        Raises:
            ConfigError: there is no such run here, or its files are damaged.
        """
        # Compared with what is there, never joined to a path: no name leads anywhere else.
        if name not in self.names():
            raise ConfigError(
                f"There is no run {str(name)[:80]!r} here; choose one of the list or press Refresh."
            )
        path = self._root / str(name)
        try:
            summary = json.loads((path / SUMMARY).read_bytes())
            results = path / RESULTS
            lines = results.read_text().splitlines() if results.is_file() else []
            return Run(path, summary, [json.loads(line) for line in lines])
        except ValueError as error:
            raise ConfigError(f"The files of run {name!r} are damaged ({error}).") from error
