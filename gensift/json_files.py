"""JSON files that are read back: whatever is wrong with one becomes one kind of error.

Files come back from disks that were full, from editors, and from people who moved them, so nothing
of them is taken for granted: not that they are files, not their types, not how deep they nest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gensift.protocols import JsonObject

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_BYTES = 256 * 2**20
"""Larger files are none of ours."""


class DamagedError(ValueError):
    """A file or line is not what it should be; the text says what is wrong, as a phrase."""


def parse_json(text: bytes | str) -> Any:
    """The content of a JSON text.

    Raises:
        DamagedError: it is no JSON, or nests too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DamagedError("it nests too deeply") from error
    except ValueError as error:  # of JSON, and of texts that are no UTF-8
        raise DamagedError(f"it is no JSON ({' '.join(str(error).split())[:120]})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DamagedError: it is absent, no file, too large or no JSON.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedError("it is far too large")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise DamagedError(error.strerror or str(error)) from error


def read_object(path: Path) -> JsonObject:
    """The content of a JSON file that holds a mapping.

    Raises:
        DamagedError: see `read_json`; or it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedError(f"it holds a {type(content).__name__} instead of a mapping")
    return content


def checked(model: type[ModelT], content: Any) -> ModelT:
    """`content` as the model says it should be.

    Raises:
        DamagedError: names the first field that is not.
    """
    if not isinstance(content, Mapping):
        raise DamagedError(f"it holds a {type(content).__name__} instead of a mapping")
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise DamagedError(f"`{where}`: {first['msg'][:120]}") from error
    except RecursionError as error:
        raise DamagedError("it nests too deeply") from error
