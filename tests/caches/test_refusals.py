"""What a cache refuses, in one line and before anything is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
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
from helpers.searches import PROMPT, contrast
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build

from caches.bac.config import BACConfig, UnitSchedule
from caches.enable import disable_cache, enable_cache, make_cache
from caches.ertacache.config import ERTACacheConfig
from caches.fingerprint import Fingerprint, fingerprint_of
from gensift.errors import ConfigError, GensiftError, UnsupportedPipelineError
from samplers.diffusion.best_of_n import BestOfN

SEEDS = [0, 1]


def refused(act: Callable[[], object], kind: type[GensiftError], expected: str) -> None:
    """`act` raises an error of `kind` whose single line matches `expected`."""
    with pytest.raises(kind, match=expected) as raised:
        act()
    assert "\n" not in str(raised.value)


def refuses_to_enable(
    pipe: Any, config: Any, expected: str, kind: type[GensiftError] = ConfigError
) -> None:
    """The config is refused, and the pipeline is left as it was."""
    before = traces_on(pipe)
    refused(lambda: enable_cache(pipe, config), kind, expected)
    assert traces_on(pipe) == before


@pytest.fixture
def flux() -> Any:
    return build("flux").pipe


@pytest.fixture(params=VARIANTS)
def config(request: pytest.FixtureRequest, flux: Any) -> Any:
    return config_of(request.param, flux, UPDATES)


def fingerprint(pipe: Any, **changes: Any) -> Fingerprint:
    found = fingerprint_of(pipe, num_steps=STEPS, sigmas=(), guidance_scale=None, latents=())
    return replace(found, **changes)


def test_a_config_that_would_hook_nothing(flux: Any) -> None:
    refused(
        lambda: BACConfig(num_steps=STEPS, schedules=()), ConfigError, "name at least one sub-block"
    )
    unet = build("sd15").pipe
    refuses_to_enable(
        unet,
        config_of("ertacache-body", unet, UPDATES),
        "no body of blocks .* Use a cache of single sub-blocks instead",
        UnsupportedPipelineError,
    )
    flux.register_modules(transformer=None)
    refused(
        lambda: enable_cache(flux, config_of("ertacache-output", flux, UPDATES)),
        UnsupportedPipelineError,
        "FluxPipeline has no denoiser in any of",
    )


def test_sub_blocks_that_the_model_lacks(flux: Any) -> None:
    schedules = tuple(
        UnitSchedule(unit=name, updates=UPDATES)
        for name in ("transformer_blocks.0.attn", "transformer_blocks.7.ff", "nothing")
    )
    refuses_to_enable(
        flux,
        BACConfig(num_steps=STEPS, schedules=schedules),
        r"has no sub-block 'transformer_blocks\.7\.ff' \(and 1 more .*calibrate for this model",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"denoiser": "OtherModel"}, "the denoiser is FluxTransformer2DModel, was OtherModel"),
        ({"denoiser_config": "0" * 16}, "the denoiser's config is .*, was 0000"),
        ({"scheduler": "DDIMScheduler"}, "the scheduler is FlowMatchEuler.*, was DDIMScheduler"),
    ],
)
def test_another_model_than_it_was_calibrated_on(
    flux: Any, config: Any, changes: dict[str, str], expected: str
) -> None:
    other = replace(config, fingerprint=fingerprint(flux, **changes))
    refuses_to_enable(flux, other, expected)
    with cached(flux, replace(config, fingerprint=fingerprint(flux))):
        pass


def test_another_version_of_diffusers_is_told(flux: Any, config: Any) -> None:
    old = replace(config, fingerprint=fingerprint(flux, diffusers="0.1.0"))
    with (
        pytest.warns(UserWarning, match=r"calibrated with diffusers 0\.1\.0, here is"),
        cached(flux, old),
    ):
        pass


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_number_of_steps_is_refused_where_asked(variant: str) -> None:
    pipe, call_kwargs = build("flux")
    plain = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    config = replace(config_of(variant, pipe, UPDATES), other_steps="refuse")
    with cached(pipe, config):
        refused(
            lambda: final_latents(pipe, call_kwargs(SEEDS, num_inference_steps=7)),
            ConfigError,
            rf"calibrated for {STEPS} steps, the run has 7; calibrate for that number, or run 5",
        )
        reused = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    assert not torch.equal(reused, plain)
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_number_of_steps_is_interpolated_with_a_warning(variant: str) -> None:
    pipe, call_kwargs = build("flux")
    # The nearest of 5 steps to each of 9: 0 0 1 2 2 2 3 4 4; reused are those from 2 and from 4.
    expected = config_of(variant, pipe, (0, 1, 2, 6), num_steps=9)
    with cached(pipe, expected):
        wanted = final_latents(pipe, call_kwargs(SEEDS, num_inference_steps=9))
    with cached(pipe, config_of(variant, pipe, UPDATES)):
        with pytest.warns(UserWarning, match="its schedules? (is|are) interpolated, at an error"):
            found = final_latents(pipe, call_kwargs(SEEDS, num_inference_steps=9))
        final_latents(pipe, call_kwargs(SEEDS, **SHORT))  # back to its own, without a warning
    assert torch.equal(found, wanted)


def test_a_pipeline_that_has_a_cache_already(flux: Any, config: Any) -> None:
    with cached(flux, config):
        refuses_to_enable(flux, config, "has a cache already; call disable_cache first")
    flux.transformer.enable_cache(FirstBlockCacheConfig())
    refuses_to_enable(flux, config, "FluxTransformer2DModel has a cache already")
    flux.transformer.disable_cache()
    with cached(flux, config):
        pass


def test_a_cache_that_is_at_work_elsewhere(flux: Any, config: Any) -> None:
    other, cache = build("flux").pipe, make_cache(flux, config)
    cache.attach(flux)
    refused(lambda: cache.attach(other), ConfigError, "is attached already; detach it")
    cache.detach()
    cache.attach(other)
    cache.detach()


def test_a_pipeline_without_a_cache(flux: Any) -> None:
    refused(lambda: disable_cache(flux), ConfigError, "FluxPipeline has no cache; enable_cache")


def test_neither_on_nor_off_in_the_middle_of_a_search(config: Any) -> None:
    pipe = speaking("flux")
    messages: list[str] = []

    def meddling(images: torch.Tensor, prompts: Any) -> torch.Tensor:
        act = disable_cache if messages else lambda pipe: enable_cache(pipe, config)
        refused(lambda: act(pipe), ConfigError, "A search.*at work on this pipeline; leave")
        messages.append("refused")
        return contrast(images, prompts)

    before = traces_on(pipe)
    reward: Any = meddling
    search: Any = BestOfN(reward, num_candidates=2)
    search(pipe, PROMPT, **SIZE | SHORT)
    with cached(pipe, config) as active:
        search(pipe, PROMPT, **SIZE | SHORT)
        assert active.report().reused > 0 and active.report().refused == 0
    assert len(messages) == 2
    assert traces_on(pipe)[2:] == before[2:]


def test_a_scheduler_that_was_exchanged(config: Any) -> None:
    pipe, call_kwargs = build("flux")
    with cached(pipe, config):
        followed = pipe.scheduler
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(followed.config)
        refused(
            lambda: final_latents(pipe, call_kwargs(SEEDS, **SHORT)),
            ConfigError,
            "The scheduler of FluxPipeline was exchanged .* call disable_cache, then enable_cache",
        )
    assert "step" not in vars(followed)
    with cached(pipe, config) as active:
        final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        assert active.report().reused > 0


def test_what_is_no_cache(flux: Any, tmp_path: Path) -> None:
    refuses_to_enable(flux, {"updates": [0]}, "dict is no cache config; give a profile file")
    refuses_to_enable(flux, tmp_path / "missing.json", "neither a profile file nor one of bac, ert")
    refuses_to_enable(flux, "ertacach", "make a profile with `gensift calibrate`")
    refuses_to_enable(flux, "bac", "No profile of bac comes with this model")


def test_an_unknown_denoiser(flux: Any, config: Any) -> None:
    flux.register_modules(transformer=torch.nn.Linear(2, 2))
    refused(
        lambda: enable_cache(flux, config), UnsupportedPipelineError, "'Linear' is not declared"
    )
    assert "step" not in vars(flux.scheduler)


def test_moved_steps_need_a_solver_that_allows_for_them() -> None:
    pipe = build("wan").pipe
    config = ERTACacheConfig(num_steps=3, updates=(0,), step_shares=(1.0, 0.5, 0.5))
    refuses_to_enable(
        pipe, config, "UniPCMultistepScheduler does not allow; leave them out, or use FlowMatchEul"
    )


def test_a_cache_that_is_on_nothing(flux: Any) -> None:
    cache = make_cache(flux, config_of("ertacache-increment", flux, UPDATES))
    refused(cache.report, ConfigError, "was never attached")
    refused(cache.detach, ConfigError, "is not attached")
    cache.attach(flux)
    cache.detach()
    refused(cache.detach, ConfigError, "is not attached")
    assert cache.report().runs == 0
