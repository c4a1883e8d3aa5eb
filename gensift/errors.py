"""The errors gensift raises: one base, and one narrow builtin behind each subclass.

A message is one line with three parts: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class GensiftError(Exception):
    """Base of every error that gensift raises on purpose; its text is fit to show to a user."""


class ConfigError(GensiftError, ValueError):
    """A setting is out of range, of the wrong type, or unknown.

    `problems` lists each fault on its own; the message joins them in one line.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems: tuple[str, ...] = tuple(problems) or (message,)

    @classmethod
    def from_problems(cls, subject: str, problems: Sequence[str]) -> ConfigError:
        """Join `problems` into one error about `subject` (a config class or a file)."""
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        return cls(f"{subject}: {count}{'; '.join(problems)}.", problems)


class UnknownNameError(GensiftError, KeyError):
    """A name that no registry entry carries."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote the whole message.
        return str(self.args[0]) if self.args else ""


class DuplicateNameError(GensiftError, ValueError):
    """Two different things were registered under one name."""


class PluginError(GensiftError, TypeError):
    """A registered object is not of the kind its registry holds."""


class RenamedWarning(DeprecationWarning):
    """A name was used that another has replaced; it still works, and commands say so."""


class UnsupportedPipelineError(GensiftError, TypeError):
    """A pipeline lacks what a sampler or cache needs from it."""


class MissingExtraError(GensiftError, ImportError):
    """An optional dependency or a plugin module cannot be imported."""


class RewardError(GensiftError, ValueError):
    """A reward returned something that cannot rank candidates: NaN, or a wrong shape."""


class RunFolderError(GensiftError, OSError):
    """A run folder cannot be used: unwritable, locked, or made by another config."""


class DeviceError(GensiftError, RuntimeError):
    """A device was asked for that is absent or out of memory."""


class ProcessError(GensiftError, RuntimeError):
    """Another process of the same run failed; the text is its reason."""


class ProcessLostError(ProcessError):
    """Another process of the same run died, or does not answer."""


def nearest_hint(name: str, known: Iterable[str]) -> str:
    """Return `" Nearest: 'a', 'b'."` for names close to `name`, or an empty string."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=3, cutoff=0.6)
    return f" Nearest: {', '.join(repr(by_folded[c]) for c in close)}." if close else ""
