"""Files that commands write: refused before the work is done where they cannot be."""

from __future__ import annotations

import os
from pathlib import Path

from gensift.errors import ConfigError


def check_file(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file that cannot be written.

    Args:
        option: that names it, for the message.
        path: the file; None passes.
        suffix: that it must end in.

    Raises:
        ConfigError: it ends otherwise, is a folder, or its folder is absent or not writable.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ConfigError(f"`{option}` is {str(path)!r}; end it in {suffix}.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"`{option}` is {str(path)!r}, in a folder that is not there; make it.")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"`{option}` is {str(path)!r}, which cannot be written; choose another.")
