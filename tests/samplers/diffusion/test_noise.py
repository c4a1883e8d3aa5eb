"""Neighbours on the sphere in closed form, and the noise that pipelines really start from."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.searches import PROMPT, close, generators, pictures, plain
from helpers.speaking_pipelines import SIZE, speaking

from gensift.errors import UnsupportedPipelineError
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.noise import gaussian, initial_noise, neighbour, refined

CASES = [("flux", None), ("sd15", "ddim"), ("sd15", "euler"), ("sdxl", "euler")]


def bound(pipe: object, seeds: list[int]) -> PipelineCall:
    arguments = {"prompt": [PROMPT], **SIZE, "output_type": "pt"}
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), arguments)
    return call.drawing_from(generators(seeds), len(seeds))


@pytest.mark.parametrize("similarity", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("shape", [(4, 8, 8), (16, 16)])
def test_neighbours_lie_on_the_sphere_at_the_stated_cosine(
    similarity: float, shape: tuple[int, ...]
) -> None:
    pivot = 3 * gaussian(shape, 1)
    found = [neighbour(pivot, gaussian(shape, seed), similarity) for seed in range(2, 6)]
    z = pivot.double().flatten()
    for point in found:
        x = point.double().flatten()
        assert point.shape == pivot.shape and point.dtype == pivot.dtype
        assert float(x.norm() / z.norm()) == pytest.approx(1, abs=1e-6)
        assert float(x @ z / (x.norm() * z.norm())) == pytest.approx(similarity, abs=1e-6)
    # What is orthogonal to the pivot goes along the direction given.
    w = (found[0].double().flatten() - similarity * z) / math.sqrt(1 - similarity**2)
    direction = gaussian(shape, 2).double().flatten()
    direction -= (direction @ z) / (z @ z) * z
    assert float(w @ direction / (w.norm() * direction.norm())) == pytest.approx(1, abs=1e-6)


def test_a_chain_of_neighbours_is_walked_in_order() -> None:
    noise = gaussian((4, 4), 0)
    by_hand = neighbour(neighbour(noise, gaussian((4, 4), 7), 0.9), gaussian((4, 4), 5), 0.9)
    assert torch.equal(refined(noise, [7, 5], 0.9), by_hand)
    assert torch.equal(refined(noise, [], 0.9), noise)


@pytest.mark.parametrize(("family", "scheduler"), CASES)
def test_the_noise_given_as_latents_makes_the_plain_pictures(
    family: str, scheduler: str | None
) -> None:
    pipe = speaking(family, scheduler)
    seeds = [3, 8, 5]
    noise = initial_noise(bound(pipe, seeds))
    assert "prepare_latents" not in vars(pipe)
    # The generators of the call are as fresh as before, and each row is what its seed draws.
    assert torch.equal(noise[1:2], initial_noise(bound(pipe, seeds[1:2])))
    again = pictures(pipe, num_images_per_prompt=3, latents=noise)
    assert close(again, plain(pipe, seeds))
    if family != "flux":
        drawn = torch.stack([gaussian((4, 8, 8), seed) for seed in seeds])
        assert torch.allclose(noise, drawn, rtol=1e-6)


def test_the_denoiser_does_not_run_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = speaking("flux")
    call = bound(pipe, [1])
    monkeypatch.setattr(pipe.transformer, "forward", None)
    assert initial_noise(call).shape == (1, 16, 16)


def test_a_pipeline_that_takes_no_latents_is_refused() -> None:
    call = bound(speaking("flux"), [1])
    del call.arguments["latents"]
    with pytest.raises(UnsupportedPipelineError, match="takes no `latents`"):
        initial_noise(call)


def test_a_failing_call_leaves_the_pipeline_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = speaking("flux")
    call = bound(pipe, [1])
    monkeypatch.setattr(pipe, "encode_prompt", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        initial_noise(call)
    assert "prepare_latents" not in vars(pipe)
