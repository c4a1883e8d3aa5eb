from dataclasses import dataclass, field

import gradio as gr
import pytest

from apps.web.widgets import option_widgets
from gensift.config import check, describe, from_dict, option
from gensift.errors import ConfigError
from samplers.registry import SAMPLERS


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = option(2, minimum=1, help="how deep")


@dataclass(frozen=True, kw_only=True)
class Config:
    num_candidates: int | None = option(None, help="shared")
    rate: float = option(0.5, minimum=0, maximum=1, help="a share")
    count: int | None = option(None, minimum=1, help="a number")
    keep: tuple[float, ...] | None = option(None, help="shares")
    kind: str = option("a", choices=("a", "b"), help="a choice")
    is_on: bool = option(True, help="a switch")
    folder: str = option("auto", help="a path")
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check(self)


@pytest.fixture
def widgets():
    with gr.Blocks():
        return option_widgets(Config)


def values(widgets, **changes):
    return [
        changes.get(row.name, component.value)
        for row, component in zip(widgets.rows, widgets.components, strict=True)
    ]


def test_each_option_has_a_widget_of_its_kind_with_its_help(widgets):
    kinds = {
        row.name: type(component)
        for row, component in zip(widgets.rows, widgets.components, strict=True)
    }
    assert kinds == {
        "rate": gr.Number,
        "count": gr.Textbox,
        "keep": gr.Textbox,
        "kind": gr.Dropdown,
        "is_on": gr.Checkbox,
        "inner.depth": gr.Textbox,
    }
    for row, component in zip(widgets.rows, widgets.components, strict=True):
        assert component.info == row.help


def test_untouched_widgets_say_nothing(widgets):
    assert widgets.read(values(widgets)) == {}


def test_what_is_set_becomes_the_config(widgets):
    changes = {
        "rate": 0.25,
        "keep": "0.5, 0.4",
        "is_on": False,
        "inner.depth": "3",
        "count": "7",
        "kind": "b",
    }
    config = from_dict(Config, widgets.read(values(widgets, **changes)))
    assert (config.rate, config.keep, config.is_on, config.kind) == (0.25, (0.5, 0.4), False, "b")
    assert (config.inner.depth, config.count) == (3, 7)


def test_a_text_that_cannot_be_read_is_refused(widgets):
    with pytest.raises(ConfigError, match="keep"):
        widgets.read(values(widgets, keep="half"))


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_every_registered_sampler_can_be_set_and_left_alone(name):
    cls = SAMPLERS.get(name)
    with gr.Blocks():
        made = option_widgets(cls.config_class)
    assert made.read([component.value for component in made.components]) == {}
    assert {row.name for row in made.rows} <= {row.name for row in describe(cls.config_class)}
