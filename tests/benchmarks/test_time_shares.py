"""Shares of a denoiser's time, on a clock that the modules themselves move."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import time_shares
from benchmarks.full_size import TINY, build_denoiser
from benchmarks.time_shares import Stopwatch, measure_time_shares


class Clock:
    """A clock that moves while some modules run."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow_down(self, module, seconds) -> None:
        plain = module.forward

        def slow(*args, **kwargs):
            self.now += seconds
            return plain(*args, **kwargs)

        module.forward = slow


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_shares, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def call_wan(denoiser) -> None:
    with torch.no_grad():
        denoiser(torch.randn(1, 16, 1, 4, 4), torch.tensor([500]), torch.randn(1, 3, 32))


def call_flux(denoiser) -> None:
    with torch.no_grad():
        denoiser(
            torch.randn(1, 4, 64),
            torch.randn(1, 3, 32),
            torch.randn(1, 16),
            torch.tensor([0.5]),
            torch.zeros(4, 3),
            torch.zeros(3, 3),
            torch.tensor([3.5]),
        )


def test_parts_of_blocks(clock) -> None:
    denoiser = build_denoiser("wan", TINY["wan"])
    for block in denoiser.blocks:
        for module, seconds in (
            (block.attn1, 4),
            (block.attn2, 2),
            (block.ffn, 3),
            (block.norm3, 1),
        ):
            clock.slow_down(module, seconds)
    clock.slow_down(denoiser.condition_embedder, 20)
    found = measure_time_shares(denoiser, lambda: [call_wan(denoiser), call_wan(denoiser)], "cpu")
    assert found.blocks == pytest.approx(30 / 50)
    assert found.units["blocks.2.attn2"] == pytest.approx(2 / 50)
    assert found.all_units == pytest.approx(27 / 50)
    assert found.units_by_kind == pytest.approx(
        {"self-attention": 12 / 50, "cross-attention": 6 / 50, "feed-forward": 9 / 50}
    )


def test_what_lies_between_the_modules_of_one_part_belongs_to_it(clock) -> None:
    denoiser = build_denoiser("flux", TINY["flux"])
    block = denoiser.single_transformer_blocks[1]
    parts = ((block.norm, 5), (block.proj_mlp, 1), (block.act_mlp, 2), (block.attn, 3))
    for module, seconds in (*parts, (block.proj_out, 4)):
        clock.slow_down(module, seconds)
    found = measure_time_shares(denoiser, lambda: call_flux(denoiser), "cpu")
    assert found.units["single_transformer_blocks.1.fused"] == pytest.approx(10 / 15)
    assert found.blocks == pytest.approx(1)


def test_a_denoiser_without_a_body_has_no_share_of_blocks(clock) -> None:
    denoiser = build_denoiser("sdxl", TINY["sdxl"])
    clock.slow_down(denoiser.conv_in, 1)
    size = {"text_embeds": torch.randn(1, 16), "time_ids": torch.zeros(1, 6)}

    def call() -> None:
        with torch.no_grad():
            denoiser(torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 32), added_cond_kwargs=size)

    assert measure_time_shares(denoiser, call, "cpu").blocks is None


def test_events_of_a_gpu_count_milliseconds(clock, monkeypatch) -> None:
    class Event:
        def __init__(self, enable_timing) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.now

        def elapsed_time(self, end) -> float:
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    part = torch.nn.Identity()
    clock.slow_down(part, 3)
    watch = Stopwatch("cuda")
    with watch.around("part", [part], part):
        part(1), part(2)
    part(3)
    assert watch.seconds() == {"part": 6}


def test_nothing_watches_afterwards(clock) -> None:
    denoiser = build_denoiser("wan", TINY["wan"])
    clock.slow_down(denoiser.condition_embedder, 1)
    with pytest.raises(ZeroDivisionError):
        measure_time_shares(denoiser, lambda: 1 / 0, "cpu")
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in denoiser.modules()
    )
