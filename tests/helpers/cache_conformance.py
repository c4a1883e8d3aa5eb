"""What every cache promises, on every supported family of pipelines: a suite to be subclassed.

class TestMine(CacheConformance):
    variants = ("mine",)

    def config_of(self, variant, pipe, updates):
        return MineConfig(num_steps=STEPS, updates=tuple(updates))
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from helpers.cached_runs import (
    SHORT,
    STEPS,
    UPDATES,
    cached,
    final_latents,
    num_calls,
    traces_on,
)
from helpers.gated_runs import relative_error
from helpers.tiny_pipelines import FAMILIES, GUIDANCE_FACTOR, Tiny, build
from torch import Tensor, nn

from caches.blocks import units_of
from caches.config import CacheConfig
from gensift.denoising.modules import denoisers_of

# Batched kernels round differently from those for one row; random weights make it 1e-7 to 3e-6.
TOLERANCE = 1e-5
SEEDS = [0, 1, 2]  # their texts have three different lengths, where lengths differ


def tiny(family: str) -> Tiny:
    """A fresh pipeline; every solver here makes one evaluation per step."""
    return build(family, "ddim" if family == "sd15" else None)


@cache
def plain(family: str) -> Tensor:
    """What the pipeline does by itself."""
    pipe, call_kwargs = tiny(family)
    return final_latents(pipe, call_kwargs(SEEDS, **SHORT))


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


Case = tuple[str, str, Tiny]
_RUNS: dict[tuple[type, str, str], Tensor] = {}


@pytest.mark.filterwarnings("error:This .* was calibrated")
class CacheConformance:
    """The suite; a subclass says what it is about.

    Attributes:
        variants: names of the kinds of config to be tried.
        families: of pipelines; blocks of the two left out are like those of SD 1.5, or their
            latents are not to be had.
    """

    variants: ClassVar[Sequence[str]] = ()
    families: ClassVar[Sequence[str]] = tuple(f for f in FAMILIES if f not in ("sdxl", "dit"))

    @abstractmethod
    def config_of(self, variant: str, pipe: Any, updates: Sequence[int]) -> CacheConfig:
        """A config that computes everything at `updates`, of `STEPS` steps, and nothing else."""

    def units_reused(self, variant: str, pipe: Any) -> int:
        """What is counted per denoiser row: the row, or each of its parts."""
        return 1

    def fits(self, family: str, variant: str) -> bool:
        """Whether the variant is made for the family."""
        return True

    def reference(
        self, pipe: Any, variant: str, updates: Sequence[int], calls_per_step: int
    ) -> AbstractContextManager[Any]:
        """The same reuse by other means, if there is a second implementation of it."""
        pytest.skip("there is no second implementation to compare with")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            cases = [
                (family, variant)
                for family in self.families
                for variant in self.variants
                if self.fits(family, variant)
            ]
            metafunc.parametrize("case", cases, ids="-".join, indirect=True)

    @pytest.fixture
    def case(self, request: pytest.FixtureRequest) -> Case:
        family, variant = request.param
        return family, variant, tiny(family)

    def with_reuse(self, family: str, variant: str) -> Tensor:
        """The first run of a fresh pipeline with a cache; made once."""
        key = type(self), family, variant
        if key not in _RUNS:
            pipe, call_kwargs = tiny(family)
            with cached(pipe, self.config_of(variant, pipe, UPDATES)):
                _RUNS[key] = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        return _RUNS[key]

    def test_without_reuse_nothing_changes_and_nothing_stays(self, case: Case) -> None:
        family, variant, (pipe, call_kwargs) = case
        kwargs = [call_kwargs(SEEDS, **SHORT) for _ in range(3)]
        assert torch.equal(final_latents(pipe, kwargs[0]), plain(family))
        before = traces_on(pipe)
        with cached(pipe, self.config_of(variant, pipe, range(STEPS))) as active:
            assert traces_on(pipe) != before
            assert torch.equal(final_latents(pipe, kwargs[1]), plain(family))
            assert active.report().reused == active.report().refused == 0
            assert active.report().computed > 0
        assert traces_on(pipe) == before
        assert torch.equal(final_latents(pipe, kwargs[2]), plain(family))

    def test_reuse_is_as_scheduled_and_the_same_in_every_run(self, case: Case) -> None:
        family, variant, (pipe, call_kwargs) = case
        before = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        traces = traces_on(pipe)
        with cached(pipe, self.config_of(variant, pipe, UPDATES)) as active:
            first, second = (final_latents(pipe, call_kwargs(SEEDS, **SHORT)) for _ in range(2))
            report = active.report()
        steps = len(pipe.scheduler.timesteps)
        per_step = len(SEEDS) * GUIDANCE_FACTOR[family] * self.units_reused(variant, pipe)
        reused = 2 * per_step * (steps - len(UPDATES))
        assert (report.runs, report.reused, report.refused) == (2, reused, 0)
        assert report.computed == 2 * per_step * len(UPDATES)
        assert report.num_bytes == 0
        assert torch.equal(first, second) and torch.equal(first, self.with_reuse(family, variant))
        assert relative_error(first, before) > 50 * TOLERANCE
        assert traces_on(pipe) == traces
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), before)

    def test_reuse_equals_that_of_modules_patched_by_hand(self, case: Case) -> None:
        family, variant, (pipe, call_kwargs) = case
        traces = traces_on(pipe)
        with self.reference(pipe, variant, UPDATES, num_calls(family)):
            expected = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
        assert [t[1:] for t in traces_on(pipe)[2:]] == [t[1:] for t in traces[2:]]
        assert relative_error(self.with_reuse(family, variant), expected) <= 1e-6

    def test_a_row_alone_is_that_row_in_a_batch(self, case: Case) -> None:
        family, variant, (pipe, call_kwargs) = case
        with cached(pipe, self.config_of(variant, pipe, UPDATES)) as active:
            alone = final_latents(pipe, call_kwargs(SEEDS[-1:], **SHORT))
            assert active.report().refused == 0
        assert relative_error(alone, self.with_reuse(family, variant)[-1:]) <= TOLERANCE

    @pytest.mark.parametrize("is_inside", [True, False], ids=["inside", "between"])
    def test_a_run_after_a_broken_one_is_like_any(self, case: Case, is_inside: bool) -> None:
        """Broken off in mid-evaluation, and where a step was just made that the next reuses."""
        family, variant, (pipe, call_kwargs) = case
        denoiser = denoisers_of(pipe)[0]
        module, steps = (units_of(denoiser)[-1].module, 1) if is_inside else (denoiser, 2)
        with cached(pipe, self.config_of(variant, pipe, UPDATES)) as active:
            with broken_off(module, num_calls(family) * steps + 1):
                final_latents(pipe, call_kwargs([5, 6, 7], **SHORT))
            assert active.clock.step_index == steps
            again = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
            assert torch.equal(again, self.with_reuse(family, variant))
            assert active.report().refused == 0

    def test_a_copy_is_plain_and_the_original_goes_on(self, case: Case) -> None:
        family, variant, (pipe, call_kwargs) = case
        assert torch.equal(final_latents(pipe, call_kwargs(SEEDS, **SHORT)), plain(family))
        before = traces_on(pipe)
        with cached(pipe, self.config_of(variant, pipe, UPDATES)) as active:
            copied = copy.deepcopy(pipe)
            assert torch.equal(final_latents(copied, call_kwargs(SEEDS, **SHORT)), plain(family))
            assert active.report().computed == 0
            again = final_latents(pipe, call_kwargs(SEEDS, **SHORT))
            assert torch.equal(again, self.with_reuse(family, variant))
        assert traces_on(pipe) == before
