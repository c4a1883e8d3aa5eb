"""Copies of what has a cache on: plain ones that work, or one clear error."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from helpers.cache_conformance import SEEDS, tiny
from helpers.cached_runs import (
    SHORT,
    STEPS,
    UPDATES,
    VARIANTS,
    cached,
    config_of,
    final_latents,
    traces_on,
)
from helpers.tiny_policies import observations, pipeline

from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import units_of
from caches.cache import cache_of
from caches.enable import disable_cache, enable_cache
from gensift.denoising.modules import denoisers_of
from gensift.errors import ConfigError


def pickled(given: Any) -> Any:
    return pickle.loads(pickle.dumps(given))


WAYS = pytest.mark.parametrize("way", [copy.deepcopy, pickled])


@WAYS
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["flux", "wan-two-experts"])
def test_a_copied_pipeline_is_plain(family: str, variant: str, way: Callable[[Any], Any]) -> None:
    pipe, call_kwargs = tiny(family)
    plain = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    before = traces_on(pipe)
    with cached(pipe, config_of(variant, pipe, UPDATES)) as active:
        final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        report = active.report()
        copied = way(pipe)
        assert cache_of(copied) is None
        assert [trace[1] for trace in traces_on(copied)[2:]] == [trace[1] for trace in before[2:]]
        assert traces_on(copied)[1] == before[1] and set(vars(pipe.scheduler)) != before[1]
        assert torch.equal(final_latents(copied, call_kwargs(SEEDS, **SHORT)), plain)
        assert active.report() == report
        with cached(copied, config_of(variant, copied, UPDATES)) as other:
            final_latents(copied, call_kwargs(SEEDS, **SHORT))
            assert other.report().reused == report.reused
    assert traces_on(pipe) == before
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain)


@WAYS
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_copied_denoiser_is_plain_and_of_its_own(variant: str, way: Callable[[Any], Any]) -> None:
    pipe, call_kwargs = tiny("flux")
    plain = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    with cached(pipe, config_of(variant, pipe, UPDATES)):
        copied = way(pipe.transformer)
    original, pipe.transformer = pipe.transformer, copied
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.zero_()
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain)


@WAYS
def test_a_policy_whose_sub_blocks_are_methods(way: Callable[[Any], Any]) -> None:
    pipe, given = pipeline(), observations(2)

    def act(of: Any) -> Any:
        generator = [torch.Generator().manual_seed(seed) for seed in range(2)]
        return of(given, num_inference_steps=STEPS, generator=generator).actions

    plain, units = act(pipe), units_of(denoisers_of(pipe)[0])
    schedules = tuple(UnitSchedule(unit=unit.name, updates=UPDATES) for unit in units)
    enable_cache(pipe, BACConfig(num_steps=STEPS, schedules=schedules))
    reusing = act(pipe)
    assert torch.equal(act(way(pipe)), plain)
    assert torch.equal(act(pipe), reusing) and not torch.equal(reusing, plain)
    disable_cache(pipe)
    assert torch.equal(act(pipe), plain)


@WAYS
def test_hooks_of_others_make_it_one_clear_error(way: Callable[[Any], Any]) -> None:
    pipe, _ = tiny("flux")
    with cached(pipe, config_of("bac", pipe, UPDATES)):
        HookRegistry.check_if_exists_or_initialize(pipe.transformer).register_hook(
            ModelHook(), "of somebody else"
        )
        with pytest.raises(ConfigError, match=r"cannot be copied .* \(disable_cache\), and put"):
            way(pipe)
