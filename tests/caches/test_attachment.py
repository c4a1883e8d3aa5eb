"""A cache among other hooks: offloading before it and after it, adapters, other methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry, ModelHook
from helpers.cached_runs import (
    SHORT,
    UPDATES,
    VARIANTS,
    cached,
    config_of,
    final_latents,
    traces_on,
)
from helpers.tiny_pipelines import build
from torch import Tensor, nn

from caches.enable import disable_cache, enable_cache, make_cache
from gensift.denoising.modules import denoisers_of
from gensift.errors import ConfigError

SEEDS = [0, 1]


def model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def group_offload(pipe: Any, kind: str) -> None:
    for denoiser in denoisers_of(pipe):
        apply_group_offloading(
            denoiser, torch.device("cpu"), offload_type=kind, num_blocks_per_group=1
        )


OFFLOADS: dict[str, Callable[[Any], None]] = {
    "model": model_offload,
    "blocks": lambda pipe: group_offload(pipe, "block_level"),
    "leaves": lambda pipe: group_offload(pipe, "leaf_level"),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("family", "offload"), [*(("flux", name) for name in OFFLOADS), ("wan-two-experts", "model")]
)
def test_offloading(family: str, variant: str, offload: str, is_first: bool) -> None:
    pipe, call_kwargs = build(family)
    plain = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    config = config_of(variant, pipe, UPDATES)
    with cached(pipe, config) as cache:
        expected = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        once = cache.report().reused
    if is_first:
        OFFLOADS[offload](pipe)
    cache = enable_cache(pipe, config)
    if not is_first:
        OFFLOADS[offload](pipe)
    # The end of each call rebuilds the hooks of model offloading, so one run proves nothing.
    for run in (1, 2, 3):
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), expected)
        assert cache.report().reused == run * once and cache.report().refused == 0
    disable_cache(pipe)
    for _ in range(2):
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain)
    assert cache.report().reused == 3 * once
    with cached(pipe, config) as again:
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), expected)
        assert again.report().reused == once


class Adapted(nn.Module):
    """What loading a LoRA puts in the place of a layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        adapted: Tensor = self.base_layer(hidden) + self.up(self.down(hidden))
        return adapted


def load_adapter(pipe: Any) -> None:
    torch.manual_seed(0)
    for block in pipe.transformer.single_transformer_blocks:
        block.proj_mlp, block.proj_out = Adapted(block.proj_mlp), Adapted(block.proj_out)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_that_is_loaded_between_two_runs(variant: str) -> None:
    pipe, call_kwargs = build("flux")
    adapted = build("flux").pipe
    load_adapter(adapted)
    config = config_of(variant, pipe, UPDATES)
    with cached(adapted, config):
        expected = final_latents(adapted, call_kwargs(SEEDS, **SHORT))
    cache = enable_cache(pipe, config)
    final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    load_adapter(pipe)
    if variant == "bac":
        with pytest.raises(ConfigError, match="Modules of FluxTransformer2DModel were exchanged"):
            final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        disable_cache(pipe)
        cache = enable_cache(pipe, config)
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), expected)
    assert cache.report().refused == 0


@pytest.mark.parametrize("variant", ["ertacache-body", "bac"])
def test_blocks_that_are_exchanged_between_two_runs(variant: str) -> None:
    pipe, call_kwargs = build("flux")
    with cached(pipe, config_of(variant, pipe, UPDATES)):
        pipe.transformer.transformer_blocks = build("flux").pipe.transformer.transformer_blocks
        with pytest.raises(ConfigError, match="call disable_cache, then enable_cache"):
            final_latents(pipe, call_kwargs(SEEDS, **SHORT))


class Doubling(ModelHook):  # type: ignore[misc]
    """Some other method's hook, which changes what the denoiser returns."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (2 * self.fn_ref.original_forward(*args, **kwargs)[0],)


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_another_hook_stays_and_does_its_work(variant: str, is_first: bool) -> None:
    pipe, call_kwargs = build("flux")
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer)
    config = config_of(variant, pipe, UPDATES)
    if is_first:
        registry.register_hook(Doubling(), "other")
    cache = enable_cache(pipe, config)
    if not is_first:
        registry.register_hook(Doubling(), "other")
    doubled = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    assert cache.report().reused > 0
    disable_cache(pipe)
    assert "other" in registry.hooks
    with_other = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    assert not torch.equal(doubled, with_other)
    registry.remove_hook("other", recurse=False)
    assert not torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), with_other)
    plain, plain_kwargs = build("flux")
    assert torch.equal(
        final_latents(pipe, call_kwargs(SEEDS, **SHORT)),
        final_latents(plain, plain_kwargs(SEEDS, **SHORT)),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_can_be_put_on_again_and_counts_anew(variant: str) -> None:
    pipe, call_kwargs = build("wan-two-experts")
    cache = make_cache(pipe, config_of(variant, pipe, UPDATES))
    before = traces_on(pipe)
    reports, latents = [], []
    for _ in range(2):
        cache.attach(pipe)
        latents.append(final_latents(pipe, call_kwargs(SEEDS, **SHORT)))
        cache.detach()
        assert traces_on(pipe)[2:] == before[2:]
        reports.append(cache.report())
    assert reports[0] == reports[1] and reports[0].runs == 1
    assert torch.equal(*latents)


def test_what_is_kept_of_an_output_is_not_what_the_pipeline_works_on() -> None:
    """A pipeline may guide in place; what it makes of an output must not be reused."""
    pipe, call_kwargs = build("flux")
    config = config_of("ertacache-output", pipe, updates=(0,))
    with cached(pipe, config):
        expected = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    step = type(pipe.scheduler).step

    def spoiling(self: Any, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = step(self, model_output, *args, **kwargs)
        model_output.zero_()
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pipe.scheduler), "step", spoiling)
        with cached(pipe, config):
            found = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    assert torch.equal(found, expected)
