"""A dropdown of cache methods, and below it the options of calibrating by the one chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr

from apps.web.widgets import OptionWidgets, option_widgets
from caches.options import CalibrationOptions
from caches.registry import CACHES, options_class_of
from gensift.errors import GensiftError
from gensift.protocols import JsonObject


@dataclass(frozen=True)
class MethodChoice:
    """The widgets.

    Attributes:
        method: the dropdown.
        options: per method.
    """

    method: gr.Dropdown
    options: dict[str, OptionWidgets]

    @property
    def components(self) -> list[gr.components.Component]:
        """The dropdown, and the widgets of all options."""
        return [self.method, *(c for w in self.options.values() for c in w.components)]

    def read(self, values: Sequence[object]) -> JsonObject:
        """Method and options, out of the values of `components`.

        Raises:
            ConfigError: a text cannot be read as its option's type.
        """
        name, *rest = values
        for other, widgets in self.options.items():
            mine, rest = rest[: len(widgets.components)], rest[len(widgets.components) :]
            if other == name:
                return {"cache": name, "options": widgets.read(mine)}
        return {"cache": name}  # whoever reads it refuses it


def calibrated_methods() -> dict[str, type[CalibrationOptions]]:
    """The methods that can be calibrated here, each with the class of its options.

    One that cannot be imported is left out; `gensift calibrate --list-options` says why.
    """
    found = {}
    for name in CACHES.names():
        try:
            found[name] = options_class_of(name)
        except GensiftError:
            continue
    return found


def choose_method(first: str) -> MethodChoice:
    """Make the widgets inside the current layout block; `first` is chosen at the start."""
    found = calibrated_methods()
    method = gr.Dropdown(list(found), value=first, label="Method", elem_id="cache-method")
    about = gr.HTML(_about(first), elem_id="cache-about")
    groups, options = {}, {}
    for name, cls in found.items():
        with gr.Group(visible=name == first) as groups[name]:
            options[name] = option_widgets(cls, ())

    def choose(name: str) -> list[object]:
        return [_about(name), *(gr.update(visible=name == other) for other in groups)]

    method.change(
        choose,
        method,
        [about, *groups.values()],
        api_visibility="private",
        show_progress="hidden",
        queue=False,
    )
    return MethodChoice(method, options)


def _about(name: str) -> str:
    return f'<p class="gs-hint">{escape(CACHES.about(name).get("summary", ""))}</p>'
