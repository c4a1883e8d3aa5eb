"""Legs, forward transitions in closed form, and schedulers that walk back and forth."""

from __future__ import annotations

import copy
import math
from inspect import signature

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from helpers.tiny_schedulers import SCHEDULERS

from gensift.errors import UnsupportedPipelineError
from samplers.diffusion.renoise_schedule import (
    NoiseLevel,
    Segment,
    check_memoryless,
    renoise_segments,
    renoised,
    renoised_loop,
)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((20, 0.4, 0.2, 0.4), [(0, 8), (4, 12), (8, 16), (12, 20)]),
        ((10, 0.5, 0.0, 0.3), [(0, 5), (5, 8), (8, 10)]),
        ((6, 0.4, 0.2, 0.4), [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]),
        ((2, 0.4, 0.2, 0.4), [(0, 1), (0, 2)]),
        ((4, 1.0, 1.0, 1.0), [(0, 3), (0, 4)]),
    ],
)
def test_legs_wind_down_to_the_end(
    case: tuple[int, float, float, float], expected: list[tuple[int, int]]
) -> None:
    assert renoise_segments(*case) == tuple(Segment(*pair) for pair in expected)


def test_every_loop_comes_to_its_end() -> None:
    for steps in range(2, 60):
        for start, up, down in ((0.0, 0.2, 0.21), (0.3, 0.01, 0.02), (0.9, 0.5, 0.6), (1, 0, 1)):
            segments = renoise_segments(steps, start, up, down)
            assert segments[0].start == 0 and segments[-1].end == steps
            ends = [segment.end for segment in segments]
            assert ends == sorted(set(ends))
            assert all(0 <= segment.start < segment.end for segment in segments)


# What each process says of the transition from noise level to noise level.
def flow(sigma: float, higher: float) -> tuple[NoiseLevel, NoiseLevel, float, float]:
    ratio = (1 - higher) / (1 - sigma)
    levels = NoiseLevel(1 - sigma, sigma), NoiseLevel(1 - higher, higher)
    return *levels, ratio, higher**2 - ratio**2 * sigma**2


def exploding(sigma: float, higher: float) -> tuple[NoiseLevel, NoiseLevel, float, float]:
    return NoiseLevel(1, sigma), NoiseLevel(1, higher), 1.0, higher**2 - sigma**2


def preserving(alpha: float, lower: float) -> tuple[NoiseLevel, NoiseLevel, float, float]:
    levels = (NoiseLevel(math.sqrt(a), math.sqrt(1 - a)) for a in (alpha, lower))
    source, target = levels
    return source, target, math.sqrt(lower / alpha), 1 - lower / alpha


@pytest.mark.parametrize(
    "case",
    [
        flow(0.3, 0.8),
        flow(0.0, 0.5),
        flow(0.4, 1.0),
        exploding(0.5, 9.0),
        exploding(0.0, 2.0),
        preserving(0.9, 0.2),
        preserving(0.99, 0.5),
    ],
)
def test_forward_noising_has_the_right_mean_and_variance(
    case: tuple[NoiseLevel, NoiseLevel, float, float],
) -> None:
    source, target, mean, variance = case
    x, e = torch.full((2, 3), 5.0), torch.ones(2, 3)
    # Linear in x and e, so one point each gives both coefficients.
    silent = renoised(x, source, target, torch.zeros(2, 3))
    assert torch.allclose(silent, mean * x, rtol=1e-6)
    assert torch.allclose(renoised(x, source, target, e) - silent, e * math.sqrt(variance))
    # A sample of the lower level becomes one of the higher level.
    assert mean * source.signal == pytest.approx(target.signal, abs=1e-9)
    spread = mean**2 * source.noise**2 + variance
    assert spread == pytest.approx(target.noise**2, abs=1e-9)


def test_no_step_up_adds_nothing() -> None:
    x = torch.randn(4, 4)
    level = NoiseLevel(0.7, 0.3)
    assert torch.equal(renoised(x, level, level, torch.randn(4, 4)), x)


@pytest.mark.parametrize("name", ["flow-euler", "euler", "ddim"])
def test_a_denoiser_that_knows_the_answer_finds_it_on_any_way(name: str) -> None:
    """With the true x0 and noise known, latents are on the level that the schedule says."""
    scheduler = SCHEDULERS[name]()
    plain = copy.deepcopy(scheduler)
    plain.set_timesteps(10)
    segments = renoise_segments(10, 0.4, 0.2, 0.4)
    x0, e = torch.full((1, 8), 2.0), torch.randn(1, 8)
    with renoised_loop(scheduler, segments) as renoising:
        scheduler.set_timesteps(10)
        assert scheduler.timesteps.tolist() == plain.timesteps[list(renoising.steps)].tolist()
        level = renoising._before[0]
        x = level.signal * x0 + level.noise * e
        ends = {sum(map(len, segments[: n + 1])) - 1: n for n in range(len(segments))}
        for k, t in enumerate(scheduler.timesteps):
            if name == "euler":
                scheduler.scale_model_input(x, t)
            prediction = e - x0 if name == "flow-euler" else e
            x = scheduler.step(prediction, t, x, return_dict=False)[0]
            renoising.advance(k)
            if k in ends and k < len(renoising.steps) - 1:
                last, begin = segments[ends[k]].end - 1, segments[ends[k] + 1].start
                after = renoising._after[last]
                assert torch.allclose(x, after.signal * x0 + after.noise * e, atol=1e-4)
                fresh = torch.randn(1, 8)
                x = renoising.renoised(x, last, begin, fresh)
                level = renoising._before[begin]
                e = (x - level.signal * x0) / level.noise
    end = renoising._after[-1]
    assert torch.allclose(x, end.signal * x0 + end.noise * e, atol=1e-3)
    assert "set_timesteps" not in vars(scheduler)


def test_the_signature_shows_through_and_copies_go_the_plain_way() -> None:
    scheduler = SCHEDULERS["flow-euler"]()
    expected = signature(scheduler.set_timesteps)
    with renoised_loop(scheduler, renoise_segments(10, 0.4, 0.2, 0.4)):
        assert signature(scheduler.set_timesteps) == expected
        twin = copy.deepcopy(scheduler)
        twin.set_timesteps(10)
        assert len(twin.timesteps) == 10


def test_another_number_of_steps_than_planned_is_refused() -> None:
    scheduler = SCHEDULERS["euler"]()
    with (
        pytest.raises(UnsupportedPipelineError, match="set 8 timesteps where 10 were planned"),
        renoised_loop(scheduler, renoise_segments(10, 0.4, 0.2, 0.4)),
    ):
        scheduler.set_timesteps(8)
    assert "set_timesteps" not in vars(scheduler)


@pytest.mark.parametrize("name", ["dpm++", "unipc", "pndm", "heun", "lcm", "euler-ancestral"])
def test_solvers_that_remember_are_refused(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    with (
        pytest.raises(UnsupportedPipelineError, match=r"= EulerDiscreteScheduler\.from_config"),
        renoised_loop(scheduler, renoise_segments(10, 0.4, 0.2, 0.4)),
    ):
        pass


def test_a_flow_that_remembers_is_told_of_the_plain_flow_solver() -> None:
    advice = r"= FlowMatchEulerDiscreteScheduler\.from_config"
    with pytest.raises(UnsupportedPipelineError, match=advice):
        check_memoryless(FlowMatchHeunDiscreteScheduler())
