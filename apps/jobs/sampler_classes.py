"""Samplers by name, each known to be what jobs ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from gensift.errors import PluginError
from samplers.registry import SAMPLERS

if TYPE_CHECKING:
    from samplers.base import Plan, SamplerBase

AnySampler: TypeAlias = "SamplerBase[Any, Plan]"
"""A sampler, whatever its config is."""

SamplerClass: TypeAlias = "type[AnySampler]"


def sampler_class(name: str) -> SamplerClass:
    """The class that is registered as `name`.

    Raises:
        UnknownNameError: nothing is.
        MissingExtraError: it cannot be imported.
        PluginError: it is no sampler of this version.
    """
    from samplers.base import SamplerBase

    found: object = SAMPLERS.get(name)
    if not (isinstance(found, type) and issubclass(found, SamplerBase)):
        raise PluginError(
            f"The sampler {name!r} is {found!r}, which does not derive from "
            "samplers.base.SamplerBase; derive it from that, with `plan_request` and `draw`."
        )
    return found


def summary_of(cls: type[object]) -> str:
    """What a sampler does: the first line of its docstring."""
    return (cls.__doc__ or "").strip().partition("\n")[0]
