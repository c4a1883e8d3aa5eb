"""An attention backend is set where there is one to set, and refused where nothing would change."""

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from helpers import next_scale, tiny_models
from torch.nn.functional import scaled_dot_product_attention

from gensift.errors import ConfigError
from gensift.pipelines.loading import _set_attention_backend


def test_a_transformer_takes_the_backend() -> None:
    transformer = tiny_models.flux_transformer()
    _set_attention_backend(SimpleNamespace(transformer=transformer), "native", "cpu")
    backends = {p._attention_backend.value for p in transformer.attn_processors.values()}
    assert backends == {"native"}


def test_a_unet_that_would_change_nothing_refuses() -> None:
    pipe = SimpleNamespace(unet=tiny_models.unet())
    _set_attention_backend(pipe, "native", "cpu")
    with pytest.raises(ConfigError, match=r"UNet2DConditionModel has no choice.*'flash'"):
        _set_attention_backend(pipe, "flash", "cpu")


def test_a_unet_has_xformers_by_a_switch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, switched = tiny_models.unet(), []
    monkeypatch.setattr("gensift.pipelines.attention.require_xformers", lambda device: None)

    def enable(self: Any) -> None:
        switched.append(self)

    monkeypatch.setattr(type(unet), "enable_xformers_memory_efficient_attention", enable)
    _set_attention_backend(SimpleNamespace(unet=unet), "xformers", "cpu")
    assert switched == [unet]


def test_next_scale_models_take_the_active_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no processors of their own to set one on."""
    active = _AttentionBackendRegistry.get_active_backend()[0]
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", active)
    pipe = next_scale.build("var")
    before = next_scale.draw(pipe, 1, [0])
    _set_attention_backend(pipe, "_native_math", "cpu")
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "_native_math"
    assert next_scale.draw(pipe, 1, [0]).allclose(before, atol=1e-4)
    with pytest.raises(ConfigError, match="'flush' cannot be used"):
        _set_attention_backend(pipe, "flush", "cpu")


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
