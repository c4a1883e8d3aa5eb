"""A dropdown of samplers, and below it the options of the one that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gradio as gr
from gradio.components import Component

from apps.jobs.sampler_classes import SamplerClass, summary_of
from apps.web.choosing import samplers_of
from apps.web.widgets import OptionWidgets, option_widgets
from gensift.protocols import JsonObject


@dataclass(frozen=True)
class SamplerChoice:
    """The widgets.

    Attributes:
        sampler: the dropdown.
        options: per sampler.
    """

    sampler: gr.Dropdown
    options: dict[str, OptionWidgets]

    @property
    def components(self) -> list[Component]:
        """The dropdown, and the widgets of all options."""
        return [self.sampler, *(c for w in self.options.values() for c in w.components)]

    def read(self, values: Sequence[object]) -> JsonObject:
        """Sampler and options, out of the values of `components`.

        Raises:
            ConfigError: a text cannot be read as its option's type.
        """
        name, *rest = values
        for other, widgets in self.options.items():
            mine, rest = rest[: len(widgets.components)], rest[len(widgets.components) :]
            if other == name:
                return {"sampler": name, "options": widgets.read(mine)}
        return {"sampler": name}  # whoever reads it refuses it


def choose_sampler(
    modality: str, first: str, prefix: str, model: gr.Dropdown | None = None
) -> SamplerChoice:
    """Make the widgets inside the current layout block.

    Args:
        modality: of the samplers.
        first: chosen at the start.
        prefix: of the ids of elements.
        model: a dropdown that follows to the sampler's own model.
    """
    found = samplers_of(modality)
    sampler = gr.Dropdown(list(found), value=first, label="Sampler", elem_id=f"{prefix}-sampler")
    about = gr.HTML(_about(found[first]), elem_id=f"{prefix}-about")
    groups, options = {}, {}
    with gr.Accordion("Options of the sampler", open=False, elem_id=f"{prefix}-options"):
        for name, cls in found.items():
            with gr.Group(visible=name == first) as groups[name]:
                options[name] = option_widgets(cls.config_class)

    def choose(name: str) -> list[object]:
        followed: list[object] = [] if model is None else [found[name].default_model]
        return [_about(found[name]), *followed, *(gr.update(visible=name == n) for n in groups)]

    sampler.change(
        choose,
        sampler,
        [about, *([] if model is None else [model]), *groups.values()],
        api_visibility="private",
        show_progress="hidden",
        queue=False,
    )
    return SamplerChoice(sampler, options)


def _about(cls: SamplerClass) -> str:
    return f'<p class="gs-hint">{escape(summary_of(cls))}</p>'
