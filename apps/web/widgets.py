"""Widgets made from a config class, so that an option's help is written only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, get_args

import gradio as gr
from gradio.components import Component

from apps.web.requests import is_free_text
from gensift.config import OptionRow, describe, parse_overrides
from gensift.conversion import is_union
from gensift.protocols import JsonObject

SHARED = ("num_candidates", "num_outputs", "max_rows", "budget", "budget_unit")
"""Options of samplers that the page asks for elsewhere, or not at all."""


@dataclass(frozen=True)
class OptionWidgets:
    """Widgets for the options of one config class.

    Attributes:
        cls: the config class.
        rows: its options.
        components: one for each of `rows`.
    """

    cls: type[object]
    rows: tuple[OptionRow, ...]
    components: tuple[Component, ...]

    def read(self, values: Sequence[object]) -> JsonObject:
        """The options that differ from their defaults, by name.

        Raises:
            ConfigError: a text cannot be read as its option's type.
        """
        given: JsonObject = {}
        texts = []
        for row, value in zip(self.rows, values, strict=True):
            if isinstance(value, str) and not row.choices:
                texts += [f"{row.name}={value.strip()}"] if value.strip() else []
            elif value is not None and value != _shown_default(row):
                given |= {row.name: value}
        return given | parse_overrides(texts, self.cls)


def option_widgets(cls: type[object], leave_out: Sequence[str] = SHARED) -> OptionWidgets:
    """Make the widgets inside the current layout block.

    Options that take any text are left out: they name files or models, which visitors do not choose
    that way.
    """
    rows = tuple(
        row for row in describe(cls) if row.name not in leave_out and not is_free_text(row)
    )
    return OptionWidgets(cls, rows, tuple(_widget(row) for row in rows))


def optional_number(name: str, info: str, elem_id: str) -> gr.Textbox:
    """A field for a number that may be left out; it gives text."""
    return gr.Textbox(
        "",
        label=name.replace("_", " ").capitalize(),
        info=info,
        placeholder="as the model asks for",
        max_length=20,
        elem_id=elem_id,
    )


def whole_number(text: str) -> int | str | None:
    """The number in such a field, None where it is empty; anything else is refused later on."""
    return int(text) if text.strip().isdecimal() else text.strip() or None


def _widget(row: OptionRow) -> Component:
    label, info = row.name.replace("_", " ").replace(".", ": "), row.help
    if row.annotation is bool:
        return gr.Checkbox(value=bool(row.default), label=label, info=info)
    if row.choices:
        return gr.Dropdown(
            choices=[str(choice) for choice in row.choices],
            value=_shown_default(row),
            label=label,
            info=info,
        )
    # An empty number field would come back as 0, so what may be left out is asked for as text.
    has_number = "." not in row.name and isinstance(row.default, (int, float))
    if has_number and _members(row) & {int, float} and tuple not in _origins(row):
        is_whole = float not in _members(row)
        return gr.Number(
            value=_shown_default(row),
            precision=0 if is_whole else None,
            minimum=row.minimum,
            maximum=row.maximum,
            label=label,
            info=info,
        )
    return gr.Textbox(
        value="", placeholder=_as_text(row.default), label=label, info=info, max_length=200
    )


def _shown_default(row: OptionRow) -> Any:
    return None if row.default is MISSING else row.default


def _members(row: OptionRow) -> set[object]:
    return set(get_args(row.annotation)) if is_union(row.annotation) else {row.annotation}


def _origins(row: OptionRow) -> set[object]:
    return {getattr(member, "__origin__", member) for member in _members(row)}


def _as_text(value: object) -> str:
    if value is None or value is MISSING:
        return "chosen by the sampler"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)
