"""Configs: frozen keyword-only dataclasses that check themselves and round-trip through files.

@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    keep: float = option(0.5, help="share kept at each checkpoint", minimum=0, maximum=1)

    def __post_init__(self) -> None:
        check(self)
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

from gensift.conversion import (
    Annotation,
    Value,
    convert,
    is_union,
    json_safe,
    outside_bounds,
    parse_text,
    plain,
    strict_json,
    type_text,
)
from gensift.errors import ConfigError, RenamedWarning, nearest_hint
from gensift.files import write_atomically
from gensift.protocols import JsonObject

Config = TypeVar("Config")


def option(
    default: Value = MISSING,
    *,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Value] | None = None,
    unit: str | None = None,
    formerly: str | None = None,
) -> Value:
    """Declare a config field with its help text and bounds; without `default` it is required.

    `minimum` and `maximum` are inclusive; on a list, bounds and choices hold for each element.
    `formerly` is an older name of the field, still taken in mappings and texts with a warning.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": None if choices is None else tuple(choices),
        "unit": unit,
        "formerly": formerly,
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check(config: Value, extra: Iterable[str] = ()) -> None:
    """Validate a config; call it in `__post_init__`.

    Values are stored as their field's type (2 as 2.0 in a float field, a list as a tuple). `extra`
    adds the problems between fields that the class finds itself, each a phrase without a full
    stop; a generator runs only once every field has the right type, so it may compare them.

    Raises:
        ConfigError: naming every problem.
    """
    hints = get_type_hints(type(config))
    values, problems, is_well_typed = {}, [], True
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        value, complaints = _converted(field.name, given, hints[field.name])
        is_well_typed = is_well_typed and not complaints
        problems += complaints or _bound_problems(field, value)
        values[field.name] = value
    if is_well_typed:
        for name, value in values.items():
            object.__setattr__(config, name, value)
    if is_well_typed or isinstance(extra, (list, tuple)):
        problems += extra
    if problems:
        raise ConfigError.from_problems(type(config).__name__, problems)


def to_dict(config: Value) -> JsonObject:
    """Return the config as a dict of JSON's types (tuples as lists)."""
    result: JsonObject = plain(config)
    return result


def from_dict(cls: type[Config], mapping: Mapping[str, Value]) -> Config:
    """Build a config from a mapping; the inverse of `to_dict`.

    Raises:
        ConfigError: naming every unknown key (with the nearest known one), missing key, wrong
            type and value out of bounds.
    """
    mapping = {_present_name(cls, key): value for key, value in mapping.items()}
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    problems = [_unknown(key, fields) for key in mapping if key not in fields]
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name], complaints = _converted(name, mapping[name], hints[name])
            problems += complaints or _bound_problems(field, values[name])
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"`{name}` is missing; give {type_text(hints[name])}")
    if problems:
        raise ConfigError.from_problems(cls.__name__, problems)
    return cls(**values)


def _present_name(cls: type[Value], key: str) -> str:
    """The name of a field by any of its names; the older ones with a warning."""
    for field in dataclasses.fields(cls):
        if field.metadata.get("formerly") == key:
            warnings.warn(
                f"`{key}` is called `{field.name}` now; the old name will go.",
                RenamedWarning,
                stacklevel=3,
            )
            return field.name
    return key


def ready_or_fields(
    cls: type[Config], config: Config | None, fields: Mapping[str, Value]
) -> Config:
    """A config that is given ready, or its fields.

    Raises:
        ConfigError: both are given, or a field is unknown or out of range.
    """
    if config is None:
        return from_dict(cls, fields)
    if fields:
        raise ConfigError("Both `config` and single options were given; give one of them.")
    return config


def _converted(name: str, value: Value, annotation: Annotation) -> tuple[Value, list[str]]:
    try:
        return convert(value, annotation, from_dict), []
    except ConfigError as error:  # from a nested dataclass, which knows its own field names
        return None, [f"in `{name}`: {problem}" for problem in error.problems]
    except ValueError as error:
        return None, [f"`{name}` is {value!r}; allowed: {error}"]


def _bound_problems(field: dataclasses.Field[Value], value: Value) -> list[str]:
    for item in value if isinstance(value, (tuple, list)) else [value]:
        allowed = outside_bounds(item, field.metadata)
        if allowed is not None:
            return [f"`{field.name}` is {item!r}; allowed: {allowed}"]
    return []


def _unknown(key: str, known: Iterable[str]) -> str:
    known = list(known)
    hint = nearest_hint(str(key), known).rstrip(".") or f" Known: {', '.join(known)}"
    return f"`{key}` is not an option.{hint}"


def load_file(path: str | Path) -> JsonObject:
    """Read a mapping from a .json, .toml, .yaml or .yml file.

    Raises:
        ConfigError: if the file is absent, unreadable, malformed, of another kind, or holds
            something other than a mapping.
    """
    path = Path(path)
    readers: dict[str, Callable[[str], Value]]
    readers = {".json": json.loads, ".toml": tomllib.loads, ".yaml": _read_yaml, ".yml": _read_yaml}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"Config file {str(path)!r} must end in {', '.join(readers)}; rename it.")
    try:
        loaded = reader(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {str(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # JSON, TOML, YAML and UTF-8 errors
        reason = " ".join(str(error).split())
        raise ConfigError(f"Config file {str(path)!r} is malformed: {reason}.") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"Config file {str(path)!r} holds {type(loaded).__name__}; write `option: value` pairs."
        )
    return loaded


def _read_yaml(text: str) -> Value:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def save_file(config: Value, path: str | Path) -> None:
    """Write a config, or a mapping, to a .json file, complete or not at all.

    Raises:
        ConfigError: if `path` ends otherwise or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise ConfigError(f"Configs are saved as JSON; end {path.name!r} in .json.")
    try:
        write_atomically(path, (strict_json(config, indent=2) + "\n").encode())
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"Config file {str(path)!r} cannot be written: {reason}.") from error


def parse_overrides(pairs: Iterable[str], cls: type[Value]) -> JsonObject:
    """Read `key=value` texts by the types of `cls`, for `from_dict`; the last of a key wins.

    Lists are JSON or `0.3,0.4`; `none` clears an optional; `outer.inner=value` reaches into nested
    configs.

    Raises:
        ConfigError: naming every pair that is malformed, unknown, or of the wrong type.
    """
    overrides: JsonObject = {}
    problems: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = _present_name(cls, key.strip().replace("-", "_"))
        if not equals or not key:
            problems.append(f"{pair!r} is no override; write key=value")
            continue
        try:
            nested: Value = parse_text(text, _annotation(cls, key))
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(f"`{key}` is {text!r}; allowed: {error}")
        else:
            for part in reversed(key.split(".")):
                nested = {part: nested}
            overrides = merge(overrides, nested)
    if problems:
        raise ConfigError.from_problems(cls.__name__, problems)
    return overrides


def _annotation(cls: type[Value], key: str) -> Value:
    first, _, rest = key.partition(".")
    hints = {f.name: get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}
    nested = _nested_config(hints.get(first))
    if first not in hints or (rest and nested is None):
        raise ConfigError(_unknown(key, hints))
    return _annotation(nested, rest) if rest and nested is not None else hints[first]


def _nested_config(annotation: Annotation) -> type[Value] | None:
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    return next((m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)), None)


def merge(*mappings: Mapping[str, Value]) -> JsonObject:
    """Merge mappings into a new one; later values win, nested mappings are merged in turn."""
    merged: JsonObject = {}
    for mapping in mappings:
        for key, value in mapping.items():
            is_nested = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
            merged[key] = merge(merged[key], value) if is_nested else value
    return merged


def config_hash(mapping: Mapping[str, Value]) -> str:
    """Return 16 hex digits that stand for the content; key order, and list or tuple, do not matter.

    Raises:
        ConfigError: if a value cannot be written to JSON.
    """
    try:
        canonical = json.dumps(json_safe(mapping), sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise ConfigError(f"A config holds JSON values only: {error}.") from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class OptionRow:
    """One option of a config as the CLI help, the docs tables and the app widgets show it.

    `type` is text for readers, `annotation` the type itself; `default` is `dataclasses.MISSING`
    for a required option.
    """

    name: str
    type: str
    default: Value
    help: str
    annotation: Annotation
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Value, ...] | None = None
    unit: str | None = None
    formerly: str | None = None


def describe(cls: type[Value]) -> list[OptionRow]:
    """Return one row per option in order of declaration; nested configs as `outer.inner`."""
    hints = get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        if dataclasses.is_dataclass(annotation):
            inner = describe(annotation)  # type: ignore[arg-type]
            rows += [dataclasses.replace(r, name=f"{field.name}.{r.name}") for r in inner]
            continue
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        metadata = {"help": "", **field.metadata}
        choices = metadata.get("choices")
        text = " | ".join(map(str, choices)) if choices else type_text(annotation)
        typed = {"type": text, "annotation": annotation}
        rows.append(OptionRow(name=field.name, default=default, **typed, **metadata))
    return rows
