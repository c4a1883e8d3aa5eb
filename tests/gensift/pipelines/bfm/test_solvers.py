"""Solvers on velocity fields whose exact answer is known."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.blockwise import bfm, generators, pipeline, sit
from torch import Tensor

from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.solvers import SOLVERS

SCALE = 0.5
"""Standard deviation of the data."""


class GaussianFlow(torch.nn.Module):
    """The exact velocity for data N(0, SCALE^2), with a record of where it was asked.

    x = (1 - s) x0 + s e has variance q = (1 - s)^2 SCALE^2 + s^2, and
    E[e - x0 | x] = (s - (1 - s) SCALE^2) x / q.
    """

    def __init__(self, boundaries: tuple[float, ...]) -> None:
        super().__init__()
        self.boundaries = boundaries
        self.config = SimpleNamespace(sample_size=8, in_channels=4, num_classes=5)
        self.null_label = 5
        self.calls: list[tuple[float, int]] = []
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor, segment: int
    ) -> Any:
        sigma = float(timestep[0])
        self.calls.append((sigma, segment))
        variance = (1 - sigma) ** 2 * SCALE**2 + sigma**2
        return SimpleNamespace(sample=(sigma - (1 - sigma) * SCALE**2) / variance * hidden_states)


def gaussian(segments: int) -> tuple[BFMPipeline, GaussianFlow]:
    boundaries = tuple(1 - m / segments for m in range(segments + 1))
    pipe = pipeline(bfm())
    flow = GaussianFlow(boundaries)
    pipe.transformer = flow
    return pipe, flow


def run(pipe: BFMPipeline, rows: int = 1, **arguments: Any) -> Tensor:
    return pipe(
        class_labels=[0] * rows,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **arguments,
    ).images


def test_one_segment_is_plain_flow_matching() -> None:
    """Against a second Euler loop, on a real model: the same numbers."""
    for model in (bfm(num_segments=1), sit()):
        pipe = pipeline(model)
        found = pipe(
            class_labels=[2],
            num_inference_steps=7,
            guidance_scale=3.0,
            generator=generators([4]),
            output_type="latent",
        ).images
        x = torch.randn(1, 4, 8, 8, generator=generators([4])[0])
        times = np.linspace(1, 0, 8)
        with torch.no_grad():
            for t, t_next in pairwise(times):
                u, c = (model(x, float(t), torch.tensor([label])).sample for label in (5, 2))
                x = x + float(t_next - t) * (u + 3.0 * (c - u))
        assert torch.allclose(found, x, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_converge_with_their_order(solver: str, order: int) -> None:
    errors = []
    for count in (8, 16, 32):
        pipe, _ = gaussian(3)
        start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        end = run(pipe, latents=start, steps_per_segment=count, solver=solver)
        # The flow maps N(0, 1) to N(0, SCALE^2) linearly.
        errors.append(float((end - SCALE * start).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_the_corrector_stays_in_its_segment() -> None:
    pipe, flow = gaussian(2)
    run(pipe, steps_per_segment=2, solver="heun")
    wanted = [(1, 0), (0.75, 0), (0.75, 0), (0.5, 0), (0.5, 1), (0.25, 1), (0.25, 1), (0, 1)]
    assert flow.calls == wanted


@pytest.mark.parametrize("segments", [1, 3, 6])
def test_noise_is_added_to_every_interval_once(
    segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intervals that are integrated tile [0, 1], and only the last is without noise."""
    steps: list[Any] = []
    inner = SOLVERS["sde"]

    def recorded(flow: Any, latents: Tensor, step: Any, generator: Any) -> Tensor:
        before = torch.Generator().manual_seed(0)
        before.set_state(generator.get_state())
        result = inner(flow, latents, step, generator)
        is_noisy = not torch.equal(before.get_state(), generator.get_state())
        steps.append((step.sigma, step.sigma_next, is_noisy))
        return result

    monkeypatch.setitem(SOLVERS, "sde", recorded)
    pipe, flow = gaussian(segments)
    run(pipe, steps_per_segment=4, solver="sde")
    assert len(flow.calls) == len(steps) == 4 * segments
    assert [sigma for sigma, _ in flow.calls] == pytest.approx([start for start, _, _ in steps])
    assert steps[0][0] == 1 and steps[-1][1] == 0
    assert all(a[1] == b[0] for a, b in pairwise(steps))
    assert [noisy for _, _, noisy in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[-1][0] == 0.04


def test_the_stochastic_solver_keeps_the_spread() -> None:
    """Exact field, many steps: the end is N(0, SCALE^2), of variance 0.25."""
    pipe, _ = gaussian(2)
    end = run(pipe, rows=64, steps_per_segment=200, solver="sde")
    assert float(end.var()) == pytest.approx(SCALE**2, rel=0.05)
    assert abs(float(end.mean())) < 0.02


def test_the_noise_of_a_row_is_its_own() -> None:
    arguments = {"solver": "sde", "num_inference_steps": 6, "output_type": "latent"}
    pipe = pipeline(bfm())
    whole = pipe(class_labels=[0, 1, 2], generator=generators([7, 8, 9]), **arguments).images
    alone = pipe(class_labels=[1], generator=generators([8]), **arguments).images
    assert torch.allclose(whole[1:2], alone, atol=1e-4 * float(alone.abs().max()))
