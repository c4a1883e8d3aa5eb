"""An attention backend is set where there is one to set, and refused where nothing would change."""

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from helpers import next_scale, tiny_models
from torch.nn.functional import scaled_dot_product_attention

from gensift.denoising.families import DenoiserFamily, declare_denoiser
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.attention import set_attention_backend


def test_a_transformer_takes_the_backend() -> None:
    transformer = tiny_models.flux_transformer()
    set_attention_backend(SimpleNamespace(transformer=transformer), "native", "cpu")
    backends = {p._attention_backend.value for p in transformer.attn_processors.values()}
    assert backends == {"native"}


def test_a_unet_that_would_change_nothing_refuses() -> None:
    pipe = SimpleNamespace(unet=tiny_models.unet())
    set_attention_backend(pipe, "native", "cpu")
    with pytest.raises(ConfigError, match=r"UNet2DConditionModel has no choice.*'flash'"):
        set_attention_backend(pipe, "flash", "cpu")


def test_a_unet_has_xformers_by_a_switch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, switched = tiny_models.unet(), []
    monkeypatch.setattr("gensift.pipelines.attention.require_xformers", lambda device: None)

    def enable(self: Any) -> None:
        switched.append(self)

    monkeypatch.setattr(type(unet), "enable_xformers_memory_efficient_attention", enable)
    set_attention_backend(SimpleNamespace(unet=unet), "xformers", "cpu")
    assert switched == [unet]


def active() -> str:
    name: str = _AttentionBackendRegistry.get_active_backend()[0].value
    return name


def test_next_scale_models_take_the_backend_while_they_run() -> None:
    """They have no processors of their own to set one on."""
    pipe, seen = next_scale.build("var"), set()
    before = next_scale.draw(pipe, 1, [0])
    set_attention_backend(pipe, "_native_math", "cpu")
    pipe.transformer.register_forward_pre_hook(lambda *_: seen.add(active()))
    assert next_scale.draw(pipe, 1, [0]).allclose(before, atol=1e-4)
    assert seen == {"_native_math"}
    with pytest.raises(ConfigError, match="'flush' cannot be used"):
        set_attention_backend(pipe, "flush", "cpu")


@pytest.mark.parametrize("build", [tiny_models.flux_transformer, lambda: next_scale.build("var")])
def test_a_backend_is_not_left_to_the_next_model(build: Any) -> None:
    before, model = active(), build()
    pipe = model if hasattr(model, "transformer") else SimpleNamespace(transformer=model)
    set_attention_backend(pipe, "_native_math", "cpu")
    assert active() == before
    with pytest.raises(RuntimeError, match="on purpose"):
        pipe.transformer.register_forward_pre_hook(lambda *_: _fail())
        pipe.transformer()
    assert active() == before


def _fail() -> None:
    raise RuntimeError("on purpose")


def test_a_denoiser_under_a_name_of_its_own_takes_the_backend_too() -> None:
    class OtherTransformer(type(tiny_models.flux_transformer())):  # type: ignore[misc]
        pass

    declare_denoiser(
        DenoiserFamily(
            name="other",
            denoiser_class="OtherTransformer",
            rows=("hidden_states",),
            components=("other_denoiser",),
        )
    )
    denoiser = tiny_models.flux_transformer()
    denoiser.__class__ = OtherTransformer
    set_attention_backend(SimpleNamespace(other_denoiser=denoiser), "_native_math", "cpu")
    backends = {p._attention_backend.value for p in denoiser.attn_processors.values()}
    assert backends == {"_native_math"}


def test_without_a_denoiser_nothing_is_ignored() -> None:
    with pytest.raises(UnsupportedPipelineError, match="no denoiser"):
        set_attention_backend(SimpleNamespace(), "native", "cpu")


def test_padded_texts_are_masked_whatever_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen backend stands for one that takes a boolean mask for numbers to add."""

    def adding(query: Any, key: Any, value: Any, attn_mask: Any, scale: float) -> Any:
        added = None if attn_mask is None else attn_mask.type_as(query)
        parts = (part.transpose(1, 2) for part in (query, key, value))
        found = scaled_dot_product_attention(*parts, attn_mask=added, scale=scale)
        return found.transpose(1, 2)

    pipe = next_scale.build("infinity")
    before = next_scale.draw(pipe, next_scale.labels_of("infinity"), [0, 1, 2])
    name = _AttentionBackendRegistry.get_active_backend()[0].__class__("_native_math")
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", name)
    monkeypatch.setitem(_AttentionBackendRegistry._backends, name, adding)
    arguments = {"query", "key", "value", "attn_mask", "scale"}
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, name, arguments)
    after = next_scale.draw(pipe, next_scale.labels_of("infinity"), [0, 1, 2])
    assert after.allclose(before, atol=1e-4)
