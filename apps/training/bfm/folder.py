"""The folder of a training: its result, and below `training/` what it works with."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from gensift.config import config_hash
from gensift.conversion import json_safe, strict_json
from gensift.errors import RunFolderError
from gensift.files import folder_written_whole, remove_stale_temporaries, write_atomically
from gensift.protocols import CallArguments, JsonObject, Pipeline

WORK = "training"
REPORT = "training.json"
_DESCRIPTION = "config.json"
_INDEX = "model_index.json"
FREE = (
    "steps",
    "frn_steps",
    "joint_steps",
    "learning_rate",
    "save_every",
    "micro_batch",
    "gradient_checkpointing",
)
"""Options that may change before a training goes on."""


class TrainingFolder:
    """One training's folder.

    Attributes:
        path: of the result.
        work: of encoded pictures and checkpoint.
        identity: what a checkpoint in it must be of.
    """

    def __init__(self, path: Path, description: JsonObject) -> None:
        """`description` holds the options and what they are applied to; nothing is written yet."""
        self.path, self.work = path, path / WORK
        self._description = json_safe(dict(description))
        fixed = {key: value for key, value in self._description.items() if key not in FREE}
        self.identity = config_hash(fixed)

    def finished(self) -> JsonObject | None:
        """The report, if the training has come to its end; refuses a folder of something else.

        Raises:
            RunFolderError: the folder holds other things, or a training with other options.
        """
        named = f"Output folder {str(self.path)!r}"
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        found = _read(self.work / _DESCRIPTION)
        if found is None:
            raise RunFolderError(f"{named} is not empty and holds no training; choose another.")
        report = _read(self.path / REPORT)
        settled = () if report is None else ("steps", "frn_steps", "joint_steps")
        differing = sorted(
            key
            for key in found.keys() | self._description.keys()
            if (key not in FREE or key in settled) and found.get(key) != self._description.get(key)
        )
        if differing:
            advice = (
                "repeat that command to resume it, or choose another folder"
                if report is None
                else f"it is finished, so choose another folder and go on by --init {self.path}"
            )
            raise RunFolderError(
                f"{named} holds a training with another {', '.join(differing)}; {advice}."
            )
        return report

    def open(self) -> None:
        """Make it, or go on with it."""
        self.work.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.work)
        text = strict_json(self._description, indent=2) + "\n"
        write_atomically(self.work / _DESCRIPTION, text.encode())

    def publish(self, pipeline: Pipeline, call: CallArguments, report: JsonObject) -> None:
        """Write the pipeline, the arguments it is called with by default, and the report.

        What makes a folder a pipeline comes last but one, and the report, by which a training
        counts as finished, at the end.
        """
        from gensift.pipelines.loading import CALL_DEFAULTS

        aside = self.work / "model"
        shutil.rmtree(aside, ignore_errors=True)
        with folder_written_whole(aside) as folder:
            pipeline.save_pretrained(folder)
            (folder / CALL_DEFAULTS).write_text(strict_json(call, indent=2) + "\n")
        for part in sorted(aside.iterdir(), key=lambda part: part.name == _INDEX):
            target = self.path / part.name
            if target.is_dir():
                shutil.rmtree(target)
            part.replace(target)
        aside.rmdir()
        write_atomically(self.path / REPORT, (strict_json(report, indent=2) + "\n").encode())


def _read(file: Path) -> JsonObject | None:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else None
    return None
