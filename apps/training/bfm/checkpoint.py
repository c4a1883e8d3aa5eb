"""The state of a training on disk."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from gensift.errors import ConfigError
from gensift.files import file_written_whole
from gensift.protocols import JsonObject

CHECKPOINT = "checkpoint.pt"
_UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError)


@dataclass
class State:
    """Where a training stands.

    Attributes:
        identity: of the training that it belongs to.
        stage: name of the stage.
        done: its finished steps.
        modules: state dict of the transformer, and of what is trained outside of it.
        optimizer: state dict.
        average: weights of the trained modules, averaged over the steps.
        recent: figures of the last steps.
        finished: figures of earlier stages, by name.
    """

    identity: str
    stage: str
    done: int
    modules: dict[str, JsonObject]
    optimizer: JsonObject
    average: JsonObject
    recent: list[list[float]]
    finished: dict[str, dict[str, float]]

    def write(self, folder: Path) -> None:
        """Write it, complete or not at all.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            with file_written_whole(folder / CHECKPOINT) as aside:
                torch.save(vars(self), aside)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise ConfigError(
                f"{str(folder / CHECKPOINT)!r} cannot be written ({reason}); make room, then the "
                "same command goes on from the checkpoint before."
            ) from error

    @classmethod
    def read(cls, folder: Path, identity: str) -> State | None:
        """What was written last; None if nothing was.

        Raises:
            ConfigError: it is damaged, or belongs to another training.
        """
        file = folder / CHECKPOINT
        if not file.exists():
            return None
        try:
            # Mapped: each of many processes would hold a copy otherwise.
            state = cls(**torch.load(file, weights_only=True, map_location="cpu", mmap=True))
        except (*_UNREADABLE, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ConfigError(
                f"{str(file)!r} is damaged ({reason}); delete it to begin again."
            ) from error
        if state.identity != identity:
            raise ConfigError(
                f"{str(file)!r} belongs to a training with other options; delete it to begin "
                "again, or choose another folder."
            )
        return state
