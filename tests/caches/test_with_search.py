"""Searches on a pipeline with a cache: what it keeps follows the candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from helpers.cached_runs import (
    UPDATES,
    VARIANTS,
    cached,
    config_of,
    num_calls,
    reference,
    units_reused,
)
from helpers.gated_runs import relative_error
from helpers.searches import contrast
from helpers.tiny_pipelines import GUIDANCE_FACTOR, Tiny, build
from torch import Tensor, nn

from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.errors import UnsupportedPipelineError
from samplers.diffusion.attach import attach
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.fk_steering import FKSteering
from samplers.diffusion.flow_sde import flow_sde
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.search_over_paths import SearchOverPaths
from samplers.diffusion.ttsnap import TTSnap

TOLERANCE = 2e-5  # of the largest latent; batch-size rounding of random networks
COUNT = 5
SEEDS = list(range(COUNT))
STEPS = 6
UPDATES_6 = (0, 2, 4)  # each is reused once
FAMILIES = ("flux", "sd3", "wan")
REWARD: Any = contrast
# Kept are 5, 3 and 2 of 5 from the steps 1, 2 and 4 on, between which is reused.
PRUNING: dict[str, Any] = {"checkpoints": (0.35, 0.7), "keep": (0.6, 0.6)}


def tiny(family: str) -> Tiny:
    """A fresh pipeline whose steps can be made random, too."""
    return build(family, "flow-euler")


@cache
def alone(family: str, variant: str, seed: int) -> Tensor:
    """The latents of a seed by itself, with the cache."""
    pipe, call_kwargs = tiny(family)
    with cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)):
        return latents_of(pipe, call_kwargs([seed], num_inference_steps=STEPS))


def latents_of(pipe: Any, kwargs: dict[str, Any]) -> Tensor:
    latents: Tensor = pipe(**kwargs, output_type="latent", return_dict=False)[0]
    return latents


def searched(
    search: DiffusionSearch, pipe: Any, kwargs: dict[str, Any], prompts: Sequence[str] = ("a",)
) -> tuple[Tensor, Any]:
    """The latents that a search chose, best first, and its output."""
    with attach(search, pipe, prompts=prompts) as run:
        latents = latents_of(pipe, kwargs)
    return latents, run.output


@pytest.fixture(params=[(f, v) for f in FAMILIES for v in VARIANTS], ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, Tiny, dict[str, Any]]:
    family, variant = request.param
    pipe, call_kwargs = tiny(family)
    return family, variant, Tiny(pipe, call_kwargs), {"num_inference_steps": STEPS}


Case = tuple[str, str, Tiny, dict[str, Any]]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("kind", [BestOfN, TTSnap])
def test_whoever_is_chosen_is_what_its_seed_gives_alone(
    case: Case, kind: type[DiffusionSearch]
) -> None:
    """In every division of the work, with the others pruned or not."""
    family, variant, (pipe, call_kwargs), steps = case
    options = PRUNING if kind is TTSnap else {}
    winners, hits = set(), set()
    with cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)) as active:
        for max_rows in (None, 3, 1) if kind is TTSnap else (None, 3):
            before = active.report().reused
            search = kind(REWARD, num_outputs=2, max_rows=max_rows, **options)
            latents, output = searched(search, pipe, call_kwargs(SEEDS, **steps))
            winners.add(tuple(output.seeds))
            hits.add(output.cost.cache_hits)
            assert output.cost.cache_hits == active.report().reused - before
            for row, seed in zip(latents, output.seeds, strict=True):
                assert_close(row[None], alone(family, variant, seed))
        assert active.report().refused == 0
    assert len(winners) == 1
    alive = [5, 3, 2] if kind is TTSnap else [5, 5, 5]
    assert hits == {sum(alive) * GUIDANCE_FACTOR[family] * units_reused(variant, pipe)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompts_of_one_call_are_pruned_apart(variant: str) -> None:
    pipe, call_kwargs = tiny("sd3")
    seeds = [0, 1, 2, 3, 4, 5]
    with cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)) as active:
        latents, output = searched(
            TTSnap(REWARD, max_rows=5, **PRUNING),
            pipe,
            call_kwargs(seeds, num_inference_steps=STEPS),
            prompts=["a", "b"],
        )
        assert active.report().refused == 0
    seeds_chosen = [seed for result in output.results for seed in result.seeds]
    assert seeds_chosen[0] < 3 <= seeds_chosen[1]
    for row, seed in zip(latents, seeds_chosen, strict=True):
        assert_close(row[None], alone("sd3", variant, seed))


def parents_of(output: Any) -> dict[int, list[int]]:
    """Per step of a search that copies, the parent of each candidate."""
    stages = output.trace.prompts[0].stages
    return {s.step_index: list(s.parents) for s in stages if s.parents is not None}


def test_copies_take_over_what_was_kept_of_their_parents(case: Case) -> None:
    family, variant, (pipe, call_kwargs), steps = case
    winners = set()
    with cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)) as active:
        for max_rows in (None, 3):
            search = FKSteering(
                REWARD,
                num_outputs=COUNT,
                max_rows=max_rows,
                strength=300.0,
                potential="diff",
                ess_threshold=1.0,
            )
            latents, output = searched(search, pipe, call_kwargs(SEEDS, **steps))
            winners.add(tuple(output.seeds))
        assert active.report().refused == 0
    parents = parents_of(output)
    own = list(range(COUNT))
    assert any(rows != own for step, rows in parents.items() if step + 1 not in UPDATES_6)
    assert len(winners) == 1

    # By hand: plain calls, patched modules, and rows moved as the trace says.
    pipe, call_kwargs = tiny(family)

    def copying(event: StepEvent) -> list[int] | None:
        rows = parents.get(event.step_index)
        if rows is not None:
            kept.select(rows)
        return rows

    with (
        reference(pipe, variant, UPDATES_6, num_calls(family)) as kept,
        flow_sde(pipe.scheduler, SEEDS, 1.0),
        observe_scheduler(pipe.scheduler, lambda event: None, before_step=copying),
    ):
        expected = latents_of(pipe, call_kwargs(SEEDS, **steps))
    assert_close(latents, expected[[SEEDS.index(seed) for seed in output.seeds]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_search_over_paths_refuses_a_cache(variant: str) -> None:
    pipe, call_kwargs = tiny("flux")
    name = variant.partition("-")[0]
    with (
        cached(pipe, config_of(variant, pipe, UPDATES)),
        pytest.raises(UnsupportedPipelineError, match=f"search-over-paths goes back .* {name} has"),
    ):
        searched(SearchOverPaths(REWARD), pipe, call_kwargs(SEEDS))


@contextmanager
def too_many_rows(module: nn.Module, call: int, limit: int) -> Iterator[None]:
    """Let memory run out where `module` is called for the `call`th time with more than `limit`."""
    calls = 0

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        rows = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if calls >= call and len(rows) > limit:
            raise torch.OutOfMemoryError("no more")

    handle = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("variant", ["ertacache-body", "bac"])
def test_out_of_memory_neither_loses_what_was_kept_nor_changes_the_result(
    variant: str, step: int
) -> None:
    """Also where it comes in a step that reuses, and is made again in smaller parts."""
    pipe, call_kwargs = tiny("flux")
    with (
        cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)) as active,
        too_many_rows(pipe.transformer.proj_out, step + 1, limit=2),
        pytest.warns(RuntimeWarning, match="Out of memory with 5 denoiser rows"),
    ):
        latents, output = searched(
            BestOfN(REWARD, num_outputs=2),
            pipe,
            call_kwargs(SEEDS, num_inference_steps=STEPS),
        )
        assert active.report().refused == 0
    for row, seed in zip(latents, output.seeds, strict=True):
        assert_close(row[None], alone("flux", variant, seed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_searches_on_an_offloaded_pipeline(variant: str) -> None:
    pipe, call_kwargs = tiny("wan")
    pipe.enable_model_cpu_offload(device="cpu")
    with cached(pipe, config_of(variant, pipe, UPDATES_6, STEPS)):
        for _ in range(2):
            _, output = searched(
                TTSnap(REWARD, **PRUNING), pipe, call_kwargs(SEEDS, num_inference_steps=STEPS)
            )
            rows = (5 + 3 + 2) * GUIDANCE_FACTOR["wan"]
            assert output.cost.cache_hits == rows * units_reused(variant, pipe)


def test_without_a_cache_there_are_no_hits() -> None:
    pipe, call_kwargs = tiny("flux")
    _, output = searched(BestOfN(REWARD), pipe, call_kwargs(SEEDS))
    assert output.cost.cache_hits == 0
