"""Values to and from the types that config fields are annotated with.

Understood: bool, int, float, str, None, Literal, unions, tuple, list, dict with string keys, and
dataclasses. A converter raises `ValueError` with a phrase that follows "`field` is ...; allowed: ".
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin

from gensift.errors import ConfigError, nearest_hint

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_NONE = ("none", "null")
_JSON_NAMES = {str: "text", int: "an integer", float: "a number", bool: "true or false"}

Value: TypeAlias = Any
"""Whatever a file, a command line or a program has given; what it is decides what is done."""

Annotation: TypeAlias = object
"""A type as it stands in an annotation: a class, a union, a generic alias."""

Build: TypeAlias = Callable[[type, Mapping[str, Value]], Value]
"""Makes an object of a class out of a mapping of its fields."""


def convert(value: Value, annotation: Annotation, build: Build) -> Value:
    """Return `value` as `annotation` wants it: int to float, list to tuple, mapping to dataclass.

    `build` makes a nested dataclass from a mapping.

    Raises:
        ValueError: with what is allowed, if `value` does not fit.
    """
    origin = get_origin(annotation)
    if annotation is Any:
        return value
    if is_union(annotation):
        return _convert_union(value, get_args(annotation), build)
    if origin is Literal:
        exact = [(type(choice), choice) for choice in get_args(annotation)]
        return value if (type(value), value) in exact else _refuse(annotation)
    if origin in (tuple, list) or annotation in (tuple, list):
        return _convert_sequence(value, annotation, build)
    if origin in (dict, Mapping) or annotation is dict:
        return _convert_mapping(value, annotation, build)
    if dataclasses.is_dataclass(annotation) and isinstance(value, Mapping):
        return build(annotation, value)  # type: ignore[arg-type]
    return _convert_scalar(value, annotation)


def _convert_scalar(value: Value, annotation: Annotation) -> Value:
    if annotation in (None, type(None)):
        return value if value is None else _refuse(annotation)
    is_bool = isinstance(value, bool)
    if annotation is float and isinstance(value, (int, float)) and not is_bool:
        return float(value)
    # bool is a subclass of int, but True is no count.
    is_one = isinstance(annotation, type) and isinstance(value, annotation)
    if is_one and (not is_bool or annotation is bool):
        return value
    return _refuse(annotation)


def _convert_union(value: Value, members: tuple[Annotation, ...], build: Build) -> Value:
    # An exact match goes first, so that 1 stays an int in `float | int`.
    for member in members:
        if type(value) is member:
            return value
    for member in members:
        try:
            return convert(value, member, build)
        except ConfigError:  # a mapping for a nested config: its own problems say more
            raise
        except ValueError:
            continue
    return _refuse(Union[members])  # noqa: UP007 - members is a runtime tuple


def _convert_sequence(value: Value, annotation: Annotation, build: Build) -> Value:
    if not isinstance(value, (list, tuple)):
        return _refuse(annotation)
    kind = list if list in (annotation, get_origin(annotation)) else tuple
    members = _element_types(annotation, len(value), default=Any)
    return kind(convert(v, member, build) for v, member in zip(value, members, strict=True))


def _element_types(
    annotation: Annotation, count: int, default: Annotation
) -> tuple[Annotation, ...]:
    """Return the annotation of each of `count` elements; refuse a count that does not fit."""
    members = get_args(annotation)
    is_fixed = get_origin(annotation) is tuple and members[-1] is not Ellipsis
    if is_fixed:
        return members if len(members) == count else _refuse(annotation)
    return (members[0] if members else default,) * count


def _convert_mapping(value: Value, annotation: Annotation, build: Build) -> dict[str, Value]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        _refuse(annotation)
    _, member = get_args(annotation) or (str, Any)
    return {key: convert(item, member, build) for key, item in value.items()}


def parse_text(text: str, annotation: Annotation) -> Value:
    """Read `text` from a command line as `annotation`; lists are JSON or `0.3,0.4`.

    Raises:
        ValueError: with what is allowed, if `text` cannot be read so.
    """
    origin = get_origin(annotation)
    if is_union(annotation):
        return _parse_union(text, get_args(annotation))
    if origin is Literal:
        by_text = {str(choice): choice for choice in get_args(annotation)}
        return by_text[text] if text in by_text else _refuse(annotation)
    if origin in (tuple, list) or annotation in (tuple, list):
        return _parse_list(text, annotation)
    if annotation is str:
        return text
    return _parse_scalar(text.strip(), annotation)


def _parse_scalar(text: str, annotation: Annotation) -> Value:
    folded = text.casefold()
    if annotation in (None, type(None)):
        return None if folded in _NONE else _refuse(annotation)
    if annotation is bool:
        return folded in _TRUE if folded in _TRUE + _FALSE else _refuse(annotation)
    try:
        return annotation(text) if annotation in (int, float) else json.loads(text)
    except ValueError:
        return _refuse(annotation)


def _parse_union(text: str, members: tuple[Annotation, ...]) -> Value:
    # Text fits anything, so str comes last and None first.
    for member in sorted(members, key=lambda m: (m is str, m is not type(None))):
        try:
            return parse_text(text, member)
        except ValueError:
            continue
    return _refuse(Union[members])  # noqa: UP007 - members is a runtime tuple


def _parse_list(text: str, annotation: Annotation) -> list[Value]:
    if text.strip().startswith("["):
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        return parsed if isinstance(parsed, list) else _refuse(annotation)
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    members = _element_types(annotation, len(pieces), default=str)
    try:
        return [parse_text(piece, member) for piece, member in zip(pieces, members, strict=True)]
    except ValueError:
        _refuse(annotation)


def outside_bounds(value: Value, bounds: Mapping[str, Value]) -> str | None:
    """Return what `bounds` (minimum, maximum, choices, unit) allow if `value` is not, or None."""
    low, high, choices = (bounds.get(name) for name in ("minimum", "maximum", "choices"))
    if choices is not None and value is not None and value not in choices:
        hint = nearest_hint(value, map(str, choices)) if isinstance(value, str) else ""
        return ", ".join(repr(choice) for choice in choices) + "." * bool(hint) + hint.rstrip(".")
    if not isinstance(value, (int, float)):
        return None
    # Written so that NaN, which compares false with everything, is out of bounds.
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    unit = f" {bounds['unit']}" if bounds.get("unit") else ""
    if low is not None and high is not None:
        return f"{low} to {high}{unit}"
    return (f"at least {low}" if low is not None else f"at most {high}") + unit


def is_union(annotation: Annotation) -> bool:
    """Whether `annotation` is `A | B` or `Optional[A]`."""
    return get_origin(annotation) in (Union, types.UnionType)


def type_text(annotation: Annotation) -> str:
    """Return the annotation as a reader wants it: `list of float`, `int or none`, `a | b`."""
    origin, members = get_origin(annotation), get_args(annotation)
    if is_union(annotation):
        return " or ".join(type_text(member) for member in members)
    if origin is Literal:
        return " | ".join(str(member) for member in members)
    if origin in (tuple, list) and members:
        if origin is tuple and members[-1] is not Ellipsis:
            return f"({', '.join(type_text(member) for member in members)})"
        return f"list of {type_text(members[0])}"
    if annotation in (None, type(None)):
        return "none"
    return str(getattr(annotation, "__name__", annotation))


def plain(value: Value) -> Value:
    """Return `value` in JSON's own types: dataclasses to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def strict_json(value: Value, *, indent: int | None = None) -> str:
    """Dump `value` as strict JSON; non-finite floats become "nan", "inf" and "-inf".

    Raises:
        TypeError: if `value` holds something that JSON cannot.
    """
    return json.dumps(json_safe(value), allow_nan=False, indent=indent)


def json_safe(value: Value) -> Value:
    """Return `value` as `plain` does, with non-finite floats as texts that `float` reads back."""
    return _finite(plain(value))


def _finite(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(annotation: Annotation) -> NoReturn:
    named = _JSON_NAMES.get(annotation) if isinstance(annotation, type) else None
    raise ValueError(named or type_text(annotation))
