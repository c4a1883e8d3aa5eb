"""What is registered as a sampler and is none is refused where it is asked for."""

from __future__ import annotations

import pytest

from apps.jobs import sampler_classes
from apps.jobs.sampler_classes import sampler_class
from gensift.errors import PluginError
from gensift.registry import Registry
from samplers.base import SamplerBase


class Old:
    """Has all that was asked of samplers before they had one base."""

    name, modality, pipelines, default_model, config_class = "old", "image", "any", "none", dict

    def plan(self) -> None: ...

    def __call__(self) -> None: ...


@pytest.mark.parametrize("target", [Old, Old(), "a text", len])
def test_what_does_not_derive_from_the_base_is_refused(
    monkeypatch: pytest.MonkeyPatch, target: object
) -> None:
    registry: Registry[object] = Registry("sampler", "none")
    registry.register("old", target if not isinstance(target, str) else "builtins:len")
    monkeypatch.setattr(sampler_classes, "SAMPLERS", registry)
    with pytest.raises(PluginError, match=r"'old' is .*samplers\.base\.SamplerBase; derive"):
        sampler_class("old")


def test_all_samplers_of_ours_are_samplers() -> None:
    for name in sampler_classes.SAMPLERS.names():
        assert issubclass(sampler_class(name), SamplerBase)
