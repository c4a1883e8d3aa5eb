"""Tiny flow models with random weights, and pipelines around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from helpers.tiny_models import kl_vae
from torch import Tensor, nn

from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel

NUM_CLASSES = 5
CLASSES = ["a red circle", "a blue square", "a green cross", "a cat", "a dog"]
SMALL = {
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": 2,
    "sample_size": 8,
    "in_channels": 4,
    "num_classes": NUM_CLASSES,
}


def randomised(model: nn.Module) -> Any:
    """All weights random: what starts at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.1 * noise if "norm.weight" in name else 0.15 * noise)
    return model.eval()


def bfm(num_segments: int = 3, **overrides: Any) -> Any:
    options: dict[str, Any] = {
        "num_segments": num_segments,
        "segment_depth": 1,
        "trunk_depth": 2,
        "frn_depth": 1,
        "adaln_rank": 8,
    }
    return randomised(BFMTransformer2DModel(**(SMALL | options | overrides)))


def sit(depth: int = 3) -> Any:
    return randomised(SiTTransformer2DModel(depth=depth, **SMALL))


def pipeline(transformer: Any) -> BFMPipeline:
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe = BFMPipeline(kl_vae(4), transformer, scheduler, classes=CLASSES)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents_of(pipe: BFMPipeline, seeds: Sequence[int], **arguments: Any) -> Tensor:
    """Final latents, row `i` of class `seeds[i] % NUM_CLASSES`."""
    arguments.setdefault("class_labels", [seed % NUM_CLASSES for seed in seeds])
    arguments.setdefault("generator", generators(seeds))
    return pipe(output_type="latent", return_dict=False, **arguments)[0]  # type: ignore[no-any-return]
