"""What there is to choose from, and who is choosing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from apps.jobs.sampler_classes import SamplerClass, sampler_class
from apps.modalities.registry import MODALITIES, PICTURES, AnyModality
from gensift.errors import GensiftError
from gensift.protocols import JsonObject
from gensift.zoo.catalog import ZOO
from samplers.registry import SAMPLERS

if TYPE_CHECKING:
    import gradio as gr


@cache
def _usable_samplers() -> dict[str, SamplerClass]:
    """Registered samplers by name; those that lack an extra, or are no samplers, are left out."""
    found = {}
    for name in SAMPLERS.names():
        try:
            found[name] = sampler_class(name)
        except GensiftError:
            continue
    return found


def samplers_of(modality: str) -> dict[str, SamplerClass]:
    """Samplers of a kind of samples, by name."""
    return {name: cls for name, cls in _usable_samplers().items() if cls.modality == modality}


def modality_of(run_config: JsonObject) -> AnyModality:
    """The kind of samples of a run; pictures where its sampler is not known here."""
    cls = _usable_samplers().get(str(run_config.get("sampler")))
    return MODALITIES.get(PICTURES if cls is None else cls.modality)


def models_of(modality: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that samplers of other kinds have no use for, as far as is known."""
    others = {
        _family(cls.default_model)
        for cls in _usable_samplers().values()
        if cls.modality != modality
    }
    return [name for name in names if _family(name) not in others]


def _family(model: str) -> str:
    return ZOO[model].family if model in ZOO else model


def session_of(request: gr.Request) -> str:
    """Whose request it is: a browser tab, or a client of the API."""
    return str(request.session_hash)
