"""A dense model in blockwise form is that model, bit for bit, until it is trained."""

from __future__ import annotations

import pytest
import torch
from helpers.blockwise import latents_of, pipeline, sit

from gensift.errors import ConfigError
from gensift.pipelines.bfm.split import split_dense

LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trunk_depth", [0, 1, 2])
def test_the_split_equals_its_teacher(trunk_depth: int, dtype: torch.dtype) -> None:
    dense = sit().to(dtype)
    split = split_dense(dense, 4, trunk_depth, frn_depth=1)
    assert split.dtype == dtype and not split.training
    for sigma in (1.0, 0.8, 0.75, 0.3, 0.0):
        wanted = dense(LATENTS, sigma, LABELS).sample
        assert torch.equal(split(LATENTS, sigma, LABELS).sample, wanted)


@pytest.mark.parametrize("trunk_depth", [0, 2])
def test_their_pipelines_draw_the_same(trunk_depth: int) -> None:
    run = {"num_inference_steps": 8, "guidance_scale": 3.0, "guidance_interval": (0.2, 0.7)}
    dense = sit()
    wanted = latents_of(pipeline(dense), [0, 1], **run)
    split = split_dense(dense, 4, trunk_depth)
    assert torch.equal(latents_of(pipeline(split), [0, 1], **run), wanted)


def test_what_training_adds_reaches_the_velocity() -> None:
    dense = sit()
    split = split_dense(dense, 2, 1)
    wanted = dense(LATENTS, 0.4, LABELS).sample
    for name in ("segments.1.extras.0.up", "shared.segment_modulation", "shared.final_extra"):
        layer = split.get_submodule(name)
        torch.nn.init.constant_(layer.bias, 0.1)
        assert not torch.allclose(split(LATENTS, 0.4, LABELS).sample, wanted)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(split(LATENTS, 0.4, LABELS).sample, wanted)


def test_a_trunk_of_all_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="can give 0 to 2"):
        split_dense(sit(), 2, 3)
