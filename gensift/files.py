"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PATTERN = ".gensift-*.tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that any reader, also after a crash, sees all of it or none.

    The bytes go to a temporary file in the same folder, reach the disk, and are renamed.

    Raises:
        OSError: if the folder cannot be written; `path` is then as before.
    """
    with file_written_whole(path) as aside, aside.open("xb") as file:
        file.write(data)


@contextmanager
def file_written_whole(path: Path) -> Iterator[Path]:
    """A file to write to, for content too large to hold; it is called `path` once all is written.

    After an error it is gone, and `path` is as before.

    Raises:
        OSError: if it cannot be written.
    """
    aside = path.with_name(TEMPORARY_PATTERN.replace("*", uuid.uuid4().hex))
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """A folder to write to, which is called `path` once all is written; after an error it is gone.

    `path` must be absent or an empty folder; folders above it are made.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(TEMPORARY_PATTERN.replace("*", uuid.uuid4().hex))
    try:
        aside.mkdir()
        yield aside
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _sync_folder(path.parent)


def remove_stale_temporaries(folder: Path) -> None:
    """Remove what interrupted writes left in `folder` and its direct subfolders."""
    for pattern in (TEMPORARY_PATTERN, f"*/{TEMPORARY_PATTERN}"):
        for stale in folder.glob(pattern):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder, which has its own buffer.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
