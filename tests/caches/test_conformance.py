"""What every cache promises, on every supported family of pipelines.

A cache that is registered without a config here fails the first test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from helpers.cached_runs import (
    SHORT,
    STEPS,
    UPDATES,
    VARIANTS,
    cached,
    config_of,
    final_latents,
    num_calls,
    reference,
    traces_on,
    units_reused,
)
from helpers.gated_runs import relative_error
from helpers.tiny_pipelines import FAMILIES, GUIDANCE_FACTOR, Tiny, build
from torch import Tensor, nn

from caches.blocks import units_of
from caches.registry import CACHES
from gensift.denoising.modules import denoisers_of

# Batched kernels round differently from those for one row; random weights make it 1e-7 to 3e-6.
TOLERANCE = 1e-5
SEEDS = [0, 1, 2]  # their texts have three different lengths, where lengths differ
WITHOUT_BODY = ("sd15", "sdxl")

CASES = [
    (family, variant)
    for family in FAMILIES
    if family not in ("sdxl", "dit")  # blocks like those of SD 1.5; latents are not to be had
    for variant in VARIANTS
    if variant != "ertacache-body" or family not in WITHOUT_BODY
]


pytestmark = pytest.mark.filterwarnings("error:This .* was calibrated")


def tiny(family: str) -> Tiny:
    """A fresh pipeline; every solver here makes one evaluation per step."""
    return build(family, "ddim" if family == "sd15" else None)


@cache
def plain(family: str) -> Tensor:
    """What the pipeline does by itself."""
    pipe, call_kwargs = tiny(family)
    return final_latents(pipe, call_kwargs(SEEDS, **SHORT))


@cache
def with_reuse(family: str, variant: str) -> Tensor:
    """The first run of a fresh pipeline with a cache."""
    pipe, call_kwargs = tiny(family)
    with cached(pipe, config_of(variant, pipe, UPDATES)):
        return final_latents(pipe, call_kwargs(SEEDS, **SHORT))


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, Tiny]:
    family, variant = request.param
    return family, variant, tiny(family)


def test_every_registered_cache_takes_part() -> None:
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(CACHES.names())


def test_without_reuse_nothing_changes_and_nothing_stays(case: tuple[str, str, Tiny]) -> None:
    family, variant, (pipe, call_kwargs) = case
    kwargs = [call_kwargs(SEEDS, **SHORT) for _ in range(3)]
    assert torch.equal(final_latents(pipe, kwargs[0]), plain(family))
    before = traces_on(pipe)
    with cached(pipe, config_of(variant, pipe, range(STEPS))) as active:
        assert traces_on(pipe) != before
        assert torch.equal(final_latents(pipe, kwargs[1]), plain(family))
        assert active.report().reused == active.report().refused == 0
        assert active.report().computed > 0
    assert traces_on(pipe) == before
    assert torch.equal(final_latents(pipe, kwargs[2]), plain(family))


def test_reuse_is_as_scheduled_and_the_same_in_every_run(case: tuple[str, str, Tiny]) -> None:
    family, variant, (pipe, call_kwargs) = case
    before = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    traces = traces_on(pipe)
    with cached(pipe, config_of(variant, pipe, UPDATES)) as active:
        first, second = (final_latents(pipe, call_kwargs(SEEDS, **SHORT)) for _ in range(2))
        report = active.report()
    steps = len(pipe.scheduler.timesteps)
    per_step = len(SEEDS) * GUIDANCE_FACTOR[family] * units_reused(variant, pipe)
    reused = 2 * per_step * (steps - len(UPDATES))
    assert (report.runs, report.reused, report.refused) == (2, reused, 0)
    assert report.computed == 2 * per_step * len(UPDATES)
    assert report.num_bytes == 0
    assert torch.equal(first, second) and torch.equal(first, with_reuse(family, variant))
    assert relative_error(first, before) > 50 * TOLERANCE
    assert traces_on(pipe) == traces
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), before)


def test_reuse_equals_that_of_modules_patched_by_hand(case: tuple[str, str, Tiny]) -> None:
    family, variant, (pipe, call_kwargs) = case
    traces = traces_on(pipe)
    with reference(pipe, variant, UPDATES, num_calls(family)):
        expected = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
    assert [t[1:] for t in traces_on(pipe)[2:]] == [t[1:] for t in traces[2:]]
    assert relative_error(with_reuse(family, variant), expected) <= 1e-6


def test_a_row_alone_is_that_row_in_a_batch(case: tuple[str, str, Tiny]) -> None:
    family, variant, (pipe, call_kwargs) = case
    with cached(pipe, config_of(variant, pipe, UPDATES)) as active:
        alone = final_latents(pipe, call_kwargs(SEEDS[-1:], **SHORT))
        assert active.report().refused == 0
    assert relative_error(alone, with_reuse(family, variant)[-1:]) <= TOLERANCE


@contextmanager
def broken_off(module: nn.Module, call: int) -> Iterator[None]:
    """Raise KeyboardInterrupt as the `call`th call of `module` begins, counted from 1."""
    calls = 0

    def interrupt(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt

    handle = module.register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "between"])
def test_a_run_after_a_broken_one_is_like_any(case: tuple[str, str, Tiny], is_inside: bool) -> None:
    """Broken off in mid-evaluation, and where a step was just made that the next would reuse."""
    family, variant, (pipe, call_kwargs) = case
    denoiser = denoisers_of(pipe)[0]
    module, steps = (units_of(denoiser)[-1].module, 1) if is_inside else (denoiser, 2)
    with cached(pipe, config_of(variant, pipe, UPDATES)) as active:
        with broken_off(module, num_calls(family) * steps + 1):
            final_latents(pipe, call_kwargs([5, 6, 7], **SHORT))
        assert active.clock.step_index == steps
        again = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        assert torch.equal(again, with_reuse(family, variant))
        assert active.report().refused == 0
