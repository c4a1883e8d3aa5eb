"""What every registered modality must be able to answer, and what ours do."""

from __future__ import annotations

import types
from typing import Any

import pytest

from apps.jobs.options import GenerateOptions
from apps.modalities import registry
from apps.modalities.base import Modality
from apps.modalities.registry import MODALITIES, check_pipeline, importable
from gensift.errors import ConfigError, PluginError, UnsupportedPipelineError
from gensift.registry import Registry, import_target
from samplers.registry import SAMPLERS


class Smells(Modality[str]):
    """Claims whatever says that it smells."""

    name, deed, denial = "smell", "spreads smells", "spreads no smells"

    def claims(self, pipeline: Any) -> bool:
        return hasattr(pipeline, "smells")

    def write_sample(self, *given: Any) -> Any: ...

    def show(self, *given: Any, is_reproducible: bool) -> None: ...


@pytest.fixture
def with_smells(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    found: Registry[Any] = Registry("modality", "none")
    for name in MODALITIES.names():
        found.register(name, MODALITIES.get(name))
    found.register("smell", Smells())
    found.register("broken", "no_such_module:X")
    monkeypatch.setattr(registry, "MODALITIES", found)
    return found


@pytest.mark.parametrize("name", MODALITIES.names())
def test_every_modality_answers_what_it_is_asked(name: str) -> None:
    found = MODALITIES.get(name)
    assert found.name == name and found.deed and found.denial
    assert isinstance(found.default_rewards("no such model"), tuple)
    if found.tab is not None:
        assert callable(import_target(found.tab.build, "The tab"))


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_every_sampler_names_a_modality(name: str) -> None:
    assert SAMPLERS.get(name).modality in MODALITIES


REWARDS = {
    ("image", "shapes-flux"): ("shapes-clip",),
    ("image", "black-forest-labs/FLUX.1-dev"): ("clip-score",),
    ("text", "countdown-llada"): ("countdown",),
    ("text", "GSAI-ML/LLaDA-8B-Instruct"): (),
    ("action", "metaworld-policy"): (),
}


@pytest.mark.parametrize(("name", "model"), REWARDS)
def test_the_reward_that_fits_a_model(name: str, model: str) -> None:
    assert MODALITIES.get(name).default_rewards(model) == REWARDS[name, model]


@pytest.mark.parametrize(
    ("option", "kind"), [("stream", "text"), ("task", "action")], ids=["stream", "task"]
)
def test_an_option_goes_with_one_kind_only(option: str, kind: str) -> None:
    given: dict[str, Any] = {"stream": {"stream": True}, "task": {"task": ("push",)}}[option]
    options = GenerateOptions(sampler="s", **given)
    for name in MODALITIES.names():
        if name == kind:
            MODALITIES.get(name).check_options(options)
            continue
        with pytest.raises(ConfigError, match=rf"`--{option}` .* s makes .* \({name}\); "):
            MODALITIES.get(name).check_options(options)


def test_a_model_of_another_kind_is_refused_by_whoever_claims_it(
    with_smells: Registry[Any],
) -> None:
    pipeline: Any = types.SimpleNamespace(smells=True)
    check_pipeline(pipeline, "rose", with_smells.get("smell"))
    with pytest.raises(UnsupportedPipelineError, match=r"rose spreads smells, and .*\(image\)"):
        check_pipeline(pipeline, "rose", with_smells.get("image"))


def test_what_lacks_its_imports_is_passed_over(with_smells: Registry[Any]) -> None:
    assert [found.name for found in importable()] == ["action", "image", "smell", "text"]


def test_a_sampler_of_another_kind_is_sent_to_its_own_tab() -> None:
    Smells().check_sampler("rose", "smell")
    with pytest.raises(UnsupportedPipelineError, match="rose spreads no smells; choose it on its"):
        Smells().check_sampler("rose", "image")


def test_what_is_no_modality_is_refused() -> None:
    MODALITIES.register("no-modality", object())  # type: ignore[arg-type]
    try:
        with pytest.raises(PluginError, match="is not a modality"):
            MODALITIES.get("no-modality")
    finally:
        del MODALITIES._targets["no-modality"]
