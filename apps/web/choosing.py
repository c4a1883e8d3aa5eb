"""What there is to choose from, and who is choosing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from gensift.errors import MissingExtraError
from gensift.zoo.catalog import ZOO
from samplers.registry import SAMPLERS

if TYPE_CHECKING:
    import gradio as gr


@cache
def samplers_of(modality: str) -> dict[str, Any]:
    """Registered samplers by name; those that lack an extra are left out."""
    found = {}
    for name in SAMPLERS.names():
        try:
            cls: Any = SAMPLERS.get(name)
        except MissingExtraError:
            continue
        if cls.modality == modality:
            found[name] = cls
    return found


def models_of(modality: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that samplers of other kinds have no use for, as far as is known."""
    others = {
        _family(cls.default_model)
        for other in ("image", "text", "action")
        if other != modality
        for cls in samplers_of(other).values()
    }
    return [name for name in names if _family(name) not in others]


def _family(model: str) -> str:
    return ZOO[model].family if model in ZOO else model


def session_of(request: gr.Request) -> str:
    """Whose request it is: a browser tab, or a client of the API."""
    return str(request.session_hash)
