from __future__ import annotations

import inspect
from collections.abc import Iterator

import diffusers
import pytest
from helpers.tiny_pipelines import FAMILIES, build

from gensift.denoising import families
from gensift.denoising.families import (
    DenoiserFamily,
    declare_denoiser,
    denoiser_classes,
    family_of,
)
from gensift.denoising.modules import denoisers_of, family_of_pipeline
from gensift.errors import ConfigError, DuplicateNameError, UnsupportedPipelineError
from gensift.pipelines.bfm.blockwise import BlockwiseTransformer
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer

OURS = {
    cls.__name__: cls
    for cls in (BlockwiseTransformer, SiTTransformer2DModel, DiffusionPolicyTransformer)
}


@pytest.fixture
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(families, "_families", dict(families._families))
    yield


@pytest.mark.parametrize("name", denoiser_classes())
def test_declared_arguments_exist(name: str) -> None:
    denoiser = OURS[name] if name in OURS else getattr(diffusers, name)
    parameters = inspect.signature(denoiser.forward).parameters
    family = families._families[name]
    declared = [*family.rows, *family.row_list, *family.nested]
    assert set(declared) <= set(parameters)
    assert len(set(declared)) == len(declared)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tiny_pipeline_is_known(family: str) -> None:
    pipe = build(family).pipe
    assert family_of_pipeline(pipe).denoiser_class == type(denoisers_of(pipe)[0]).__name__
    assert len(denoisers_of(pipe)) == (2 if family == "wan-two-experts" else 1)


def test_subclass_is_found_through_its_bases() -> None:
    class Tuned(diffusers.FluxTransformer2DModel):  # type: ignore[misc]
        pass

    assert family_of(Tuned.__new__(Tuned)).name == "flux"


def test_unknown_denoiser_is_told_how_to_be_declared(own_declarations: None) -> None:
    class Mystery:
        pass

    with pytest.raises(UnsupportedPipelineError) as refusal:
        family_of(Mystery())
    message = str(refusal.value)
    assert "Mystery" in message
    assert "FluxTransformer2DModel" in message
    assert "declare_denoiser(DenoiserFamily(" in message

    declare_denoiser(DenoiserFamily(name="mystery", denoiser_class="Mystery", rows=("x",)))
    assert family_of(Mystery()).leading == "x"


def test_declaring_twice(own_declarations: None) -> None:
    family = DenoiserFamily(name="mystery", denoiser_class="Mystery", rows=("x",))
    declare_denoiser(family)
    declare_denoiser(family)
    with pytest.raises(DuplicateNameError, match="Mystery"):
        declare_denoiser(DenoiserFamily(name="other", denoiser_class="Mystery", rows=("y",)))


def test_all_problems_in_one_error() -> None:
    with pytest.raises(ConfigError) as refusal:
        DenoiserFamily(name="bad", denoiser_class="Bad", groups=(0,), components=())
    assert len(refusal.value.problems) == 3


def test_pipeline_without_denoiser() -> None:
    with pytest.raises(UnsupportedPipelineError, match="declare_denoiser"):
        denoisers_of(object())
