from __future__ import annotations

import pytest
import torch
from helpers.cached_runs import counted
from helpers.tiny_pipelines import build
from helpers.toy_denoiser import NUM_BLOCKS, declare_toy, full, toy_pipeline
from torch import Tensor

from caches.body import Body
from gensift.denoising.modules import hooks_on
from gensift.errors import UnsupportedPipelineError

TEXT, TIME = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])
LATENTS = torch.arange(24.0).view(2, 3, 4)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_toy(monkeypatch)


def test_what_blocks_add_is_told_and_may_stand_for_them() -> None:
    denoiser = toy_pipeline().transformer
    with counted([block.attn for block in denoiser.blocks]) as counts:
        body = Body(denoiser)
        (output,), added = body.run(lambda: denoiser(LATENTS, TIME, TEXT))
        assert torch.equal(output, full(LATENTS, 3.0, TEXT))
        # Each of the blocks adds gate * 2 * (text + time).
        wanted = (NUM_BLOCKS * 3.0 * 2 * (TEXT + 3.0)).view(2, 1, 1).expand(2, 3, 4)
        assert added is not None and added.dtype == torch.float32
        assert torch.equal(added, wanted)
        (output,), told = body.run(lambda: denoiser(LATENTS + 7, TIME, TEXT), added)
        assert told is None
        assert torch.equal(output, 3 * (5 * (LATENTS + 7) + wanted))
        assert sum(counts.values()) == NUM_BLOCKS


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 2, 4), (2, 3, 5)], ids=str)
def test_a_difference_that_does_not_fit_lets_the_blocks_run(shape: tuple[int, ...]) -> None:
    denoiser = toy_pipeline().transformer
    body = Body(denoiser)
    (output,), added = body.run(lambda: denoiser(LATENTS, TIME, TEXT), torch.ones(shape))
    assert torch.equal(output, full(LATENTS, 3.0, TEXT))
    assert added is not None and added.shape == LATENTS.shape


def test_nothing_stays_after_a_call_that_failed() -> None:
    denoiser = toy_pipeline().transformer
    body = Body(denoiser)

    def fail() -> Tensor:
        denoiser(LATENTS, TIME, TEXT)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        body.run(fail, torch.ones_like(LATENTS))
    assert (body.kept, body.entered, body.left) == (None, None, None)
    assert torch.equal(denoiser(LATENTS, TIME, TEXT)[0], full(LATENTS, 3.0, TEXT))


def test_outside_of_its_runs_and_once_detached_it_does_nothing() -> None:
    denoiser = toy_pipeline().transformer
    body = Body(denoiser)
    assert torch.equal(denoiser(LATENTS, TIME, TEXT)[0], full(LATENTS, 3.0, TEXT))
    assert body.entered is None and body.left is None
    body.detach()
    for block in denoiser.blocks:
        assert not hooks_on(block) and "forward" not in vars(block)


def test_a_denoiser_without_a_body_is_left_alone() -> None:
    unet = build("sd15").pipe.unet
    with pytest.raises(UnsupportedPipelineError, match="no body of blocks"):
        Body(unet)
    assert not any(hooks_on(module) for module in unet.modules())
