"""The flow SDE against Gaussian data, whose velocity and marginals are known in closed form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from helpers.searches import close, generators, plain
from helpers.speaking_pipelines import speaking
from torch import Tensor

from samplers.diffusion.flow_sde import add_flow_noise, flow_sde

MEAN, STD = 0.7, 0.4  # of the data


def velocity(sample: Tensor, sigma: float) -> Tensor:
    """E[e - x0 | x] for x = (1 - sigma) x0 + sigma e with x0 ~ N(MEAN, STD^2)."""
    centred = sample - (1 - sigma) * MEAN
    total = variance(sigma)
    return sigma / total * centred - (MEAN + (1 - sigma) * STD**2 / total * centred)


def variance(sigma: float) -> float:
    return (1 - sigma) ** 2 * STD**2 + sigma**2


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_marginals_of_the_sde_are_those_of_the_data(scale: float) -> None:
    stream = torch.Generator().manual_seed(0)
    sample = torch.randn(40_000, generator=stream, dtype=torch.float64)
    first, sigmas = sample.clone(), torch.linspace(1, 0, 401, dtype=torch.float64).tolist()
    for sigma, next_sigma in pairwise(sigmas[:-1]):
        v = velocity(sample, sigma)
        noise = torch.randn(len(sample), generator=stream, dtype=torch.float64)
        stepped = sample + (next_sigma - sigma) * v
        sample = add_flow_noise(
            stepped, sample, v, noise, sigma=sigma, next_sigma=next_sigma, scale=scale
        )
        if abs(next_sigma - 0.5) < 1e-9:
            assert float(sample.var()) == pytest.approx(variance(0.5), rel=0.03)
    sample = sample - sigmas[-2] * velocity(sample, sigmas[-2])
    assert float(sample.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(sample.var()) == pytest.approx(STD**2, rel=0.03)
    # Where the ODE maps each noise to one picture, the SDE forgets where it came from.
    correlation = float(torch.corrcoef(torch.stack([first, sample]))[0, 1])
    assert correlation < {0.5: 0.99, 1.0: 0.92, 2.0: 0.5}[scale]


def solved(num_steps: int, scale: float | None, seeds: list[int], width: int = 4000) -> Tensor:
    """Final samples `(len(seeds), width)` by the scheduler itself; None leaves it alone."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(num_steps)
    draws = [torch.randn(width, generator=g) for g in generators(seeds)]

    def run() -> Tensor:
        sample = torch.stack(draws)
        for index, timestep in enumerate(scheduler.timesteps):
            v = velocity(sample, float(scheduler.sigmas[index]))
            sample = scheduler.step(v, timestep, sample, return_dict=False)[0]
        return sample

    if scale is None:
        return run()
    with flow_sde(scheduler, seeds, scale):
        return run()


def test_the_scheduler_takes_the_steps_of_the_sde() -> None:
    final = solved(200, 1.0, [1, 2, 3, 4, 5])
    assert float(final.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(final.var()) == pytest.approx(STD**2, rel=0.05)


def test_without_noise_it_is_the_ode_bit_for_bit() -> None:
    assert torch.equal(solved(20, 0.0, [1, 2]), solved(20, None, [1, 2]))
    pipe = speaking("flux")
    expected = plain(pipe, [1, 2])
    with flow_sde(pipe.scheduler, [1, 2], 0.0):
        assert torch.equal(plain(pipe, [1, 2]), expected)


def test_low_precision_latents_keep_their_dtype_and_without_noise_their_bits() -> None:
    sample, v, noise = torch.randn(3, 2, 8).to(torch.bfloat16).unbind(0)
    stepped = sample - 0.1 * v
    steps = {"sigma": 0.5, "next_sigma": 0.4}
    assert torch.equal(add_flow_noise(stepped, sample, v, noise, **steps, scale=0.0), stepped)
    moved = add_flow_noise(stepped, sample, v, noise, **steps, scale=1.0)
    assert moved.dtype == torch.bfloat16 and not torch.equal(moved, stepped)


def test_small_noise_is_a_small_change() -> None:
    exact = solved(20, None, [1])
    changes = [float((solved(20, scale, [1]) - exact).abs().mean()) for scale in (1e-3, 1e-2)]
    assert 0 < changes[0] < 1e-3
    assert changes[1] == pytest.approx(10 * changes[0], rel=0.05)


def test_the_noise_of_a_row_depends_on_its_seed_alone() -> None:
    together = solved(10, 1.0, [4, 5, 6])
    assert torch.equal(solved(10, 1.0, [6, 4])[0], together[2])
    assert not torch.equal(together[0], together[1])
    pipe = speaking("flux")
    with flow_sde(pipe.scheduler, [4, 5, 6], 1.0):
        pictures = plain(pipe, [4, 5, 6])
    with flow_sde(pipe.scheduler, [6], 1.0):
        assert close(plain(pipe, [6]), pictures[2:])


def test_the_last_step_draws_no_noise() -> None:
    assert torch.equal(solved(1, 1.0, [3]), solved(1, None, [3]))


def test_an_error_leaves_the_scheduler_as_it_was() -> None:
    scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(RuntimeError), flow_sde(scheduler, [1], 1.0):
        raise RuntimeError
    assert "step" not in vars(scheduler)
