"""Caches on compiled denoisers: the same result, from graphs whose number is bounded.

The eager backend takes the same graphs as any other, without the time to translate them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers.cached_runs import cached, config_of, final_latents, traces_on
from helpers.tiny_pipelines import build
from helpers.toy_denoiser import Loop, declare_toy, toy_pipeline
from torch._dynamo.utils import counters

from caches.bac.config import BACConfig, UnitSchedule
from caches.blocks import units_of
from caches.enable import disable_cache, enable_cache
from caches.ertacache.config import ERTACacheConfig, ResidualMode
from gensift.errors import UnsupportedPipelineError

SEEDS = [0, 1]
STEPS = 5
UPDATES = (0, 2)
RUN = {"num_inference_steps": STEPS}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def by_method(pipe: Any) -> None:
    pipe.transformer.compile(backend="eager")


def by_wrapper(pipe: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


def by_blocks(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)


WHOLE: dict[str, Callable[[Any], None]] = {"compile()": by_method, "torch.compile": by_wrapper}


# In the order of the sub-blocks: attention, two feed-forwards, and the fused block.
STAGGERED = ((0, 2, 4), (0, 1, 4), (0,), (0, 3))


def staggered(pipe: Any) -> BACConfig:
    """A schedule of its own for each sub-block, so that hardly two steps are alike."""
    units = units_of(pipe.transformer)
    schedules = tuple(
        UnitSchedule(unit=unit.name, updates=updates)
        for unit, updates in zip(units, STAGGERED, strict=True)
    )
    return BACConfig(num_steps=STEPS, schedules=schedules)


# Of the first block: which of its three sub-blocks run. Of the other: whether it runs.
PATTERNS = {tuple(step in updates for updates in STAGGERED[:3]) for step in range(STEPS)}

CASES = {
    "output, torch.compile, after": ("ertacache-output", by_wrapper, 1),
    # Blocks of two classes, and what the last one hands on where they are passed over.
    "body, blocks, before": ("ertacache-body", by_blocks, 3),
    "bac, blocks, after": ("bac", by_blocks, len(PATTERNS) + 2),
}


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_denoiser_gives_the_same_from_few_graphs(case: str) -> None:
    variant, compile_it, graphs = CASES[case]
    pipe, call_kwargs = build("flux")
    plain = final_latents(pipe, call_kwargs(SEEDS, **RUN))
    chosen = staggered(pipe) if variant == "bac" else config_of(variant, pipe, UPDATES, STEPS)
    with cached(pipe, chosen) as cache:
        expected = final_latents(pipe, call_kwargs(SEEDS, **RUN))
        report = cache.report()
    if case.endswith("before"):
        compile_it(pipe)
    cache = enable_cache(pipe, chosen)
    if case.endswith("after"):
        compile_it(pipe)
    for _ in range(2):
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **RUN)), expected)
        assert counters["stats"]["unique_graphs"] == graphs
    assert cache.report().reused == 2 * report.reused and cache.report().refused == 0
    # None inside of blocks; otherwise one, between the denoiser and the hook around it.
    breaks = sum(counters["graph_break"].values())
    assert breaks == (0 if compile_it is by_blocks else 1)
    disable_cache(pipe)
    assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **RUN)), plain)


@pytest.mark.parametrize("how", WHOLE)
@pytest.mark.parametrize(("mode", "graphs"), [("increment", 1), ("output", 1), ("body", 2)])
def test_a_small_denoiser_that_is_compiled_as_a_whole(
    mode: ResidualMode, graphs: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_toy(monkeypatch)
    steps = torch._dynamo.config.recompile_limit + 2  # a graph per step would be too many
    config = ERTACacheConfig(num_steps=steps, updates=(0, 3, 4), residual=mode)
    texts, found = [torch.tensor([1.0, 2.0]), torch.tensor([30.0, 40.0])], []
    for is_compiled in (False, True):
        pipe = toy_pipeline()
        if is_compiled:
            WHOLE[how](pipe)
        with cached(pipe, config) as cache:
            found.append(Loop(pipe, (2, 3, 4, 4), steps).run(texts, ("cond", "uncond")))
            assert cache.report().refused == 0
    assert counters["stats"]["unique_graphs"] == graphs
    for eager, compiled in zip(*found, strict=True):
        assert all(map(torch.equal, eager, compiled))


@pytest.mark.parametrize("how", WHOLE)
def test_bac_refuses_a_denoiser_that_is_compiled_as_a_whole(how: str) -> None:
    expected = "bac .*compile its blocks instead"
    pipe, call_kwargs = build("flux")
    chosen = staggered(pipe)
    with cached(pipe, chosen):
        plain = pipe.transformer
        WHOLE[how](pipe)
        with pytest.raises(UnsupportedPipelineError, match=expected):
            final_latents(pipe, call_kwargs(SEEDS, **RUN))
    before = traces_on(pipe)
    with pytest.raises(UnsupportedPipelineError, match=expected):
        enable_cache(pipe, chosen)
    assert traces_on(pipe) == before
    pipe.transformer = plain
    plain._compiled_call_impl = None
    with cached(pipe, chosen) as cache:
        final_latents(pipe, call_kwargs(SEEDS, **RUN))
        assert cache.report().reused > 0


def test_one_graph_for_a_whole_denoiser_and_a_cache_is_refused_with_the_reason() -> None:
    pipe, call_kwargs = build("flux")
    pipe.transformer.compile(backend="eager", fullgraph=True)
    with (
        cached(pipe, config_of("ertacache-output", pipe, UPDATES, STEPS)),
        pytest.raises(Exception, match="a cache decides anew at every step; compile the denoiser"),
    ):
        final_latents(pipe, call_kwargs(SEEDS, **RUN))
