"""Command line options made from a config class, so that a field's help is written only once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

import typer

from gensift.config import OptionRow, describe
from gensift.conversion import is_union, parse_text
from gensift.errors import ConfigError

_METAVARS: dict[type[Any], str] = {str: "TEXT", int: "N", float: "X"}


Configs = type[Any] | Sequence[type[Any]]
"""A config class, or several whose options are given side by side."""


def takes_options_of(
    cls: Configs, panels: Mapping[str, Sequence[str]], names: Mapping[str, tuple[str, ...]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command one option per field named in `panels`, in place of its `**given`.

    `panels` groups the fields in the help. `names` are option names other than the field's own,
    for instance a short one. Options that are not given arrive as None or empty; see `collect`.
    Older names of fields are taken too, and not in the help.
    """
    rows = rows_by_name(cls)
    options = [
        _parameter(rows[field], panel, names.get(field, (flag(field),)))
        for panel, fields in panels.items()
        for field in fields
    ]
    options += [
        _parameter(row, "", (flag(name),), is_hidden=True)
        for name, row in rows.items()
        if name != row.name
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = sorted([*options, *own], key=lambda parameter: parameter.kind)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def collect(cls: Configs, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line, by field name.

    Raises:
        ConfigError: if an option that takes one value was given several, or another kind of value.
    """
    rows = rows_by_name(cls)
    return {
        name: value if isinstance(value, bool) else _read(rows[name], value)
        for name, value in given.items()
        if value is not None and value != []
    }


def rows_by_name(cls: Configs) -> dict[str, OptionRow]:
    """Options by each of their names; of options of one name the first."""
    rows: dict[str, OptionRow] = {}
    for config in [cls] if isinstance(cls, type) else cls:
        for row in describe(config):
            rows.setdefault(row.name, row)
            if row.formerly is not None:
                rows.setdefault(row.formerly, row)
    return rows


def _read(row: OptionRow, texts: Sequence[str]) -> Any:
    if is_repeatable(row):
        return list(texts)
    if len(texts) > 1:
        listed = ", ".join(texts)
        raise ConfigError(
            f"`{flag(row.name)}` was given {len(texts)} times ({listed}); give it once."
        )
    try:
        return parse_text(texts[0], _read_as(row.annotation))
    except ValueError as error:
        raise ConfigError(f"`{flag(row.name)}` is {texts[0]!r}; give {error}.") from error


def is_repeatable(row: OptionRow) -> bool:
    """Whether an option collects its values rather than take a single one."""
    return get_origin(row.annotation) is tuple


def flag(field: str) -> str:
    """The long option name of a field."""
    return f"--{field.replace('_', '-')}"


def _parameter(
    row: OptionRow, panel: str, names: tuple[str, ...], *, is_hidden: bool = False
) -> inspect.Parameter:
    kind = _value_type(row.annotation)
    long = names[0].removeprefix("--")
    if kind is bool:
        names = (f"--{long}/--no-{long}",)
    # Single values are collected too, so that a second one is refused rather than taken silently.
    annotation: Any = bool | None if kind is bool else list[str] | None
    is_told = row.default not in (None, ()) and row.default is not False
    option = typer.Option(
        *names,
        help=row.help + (f" Default: {row.default}." if is_told else ""),
        show_default=False,
        metavar=None if kind is bool else _METAVARS[kind],
        rich_help_panel=panel,
        hidden=is_hidden,
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    annotation = Annotated[annotation, option]
    name = row.formerly if is_hidden and row.formerly else row.name
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _read_as(annotation: Any) -> Any:
    """The type of a text: that of the option, or a whole list where None stands for its lack."""
    lists = [m for m in get_args(annotation) if is_union(annotation) and get_origin(m) is tuple]
    return lists[0] if lists else _value_type(annotation)


def _value_type(annotation: Any) -> type[Any]:
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    if get_origin(annotation) is tuple:
        members = get_args(annotation)[:1]
    for kind in (bool, int, float):
        if kind in members and str not in members:
            return kind
    return str
