"""Class-conditional flow models of random weights, for measuring speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

from benchmarks.full_size import TINY_VAE, VAE, created_on
from gensift.pipelines.bfm.pipeline import BFMPipeline
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.sizes import BFM_SIZES, SIT_SIZES
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel


@dataclass(frozen=True, kw_only=True)
class FlowSize:
    """A blockwise model, the dense one that it is compared with, and how they are run.

    Attributes:
        blockwise, dense: arguments of `BFMTransformer2DModel` and `SiTTransformer2DModel`.
        vae: of the `AutoencoderKL`, which takes memory but decodes nothing here.
        pictures: batch sizes.
        steps: of a whole picture.
    """

    blockwise: dict[str, Any]
    dense: dict[str, Any]
    vae: dict[str, Any]
    pictures: tuple[int, ...]
    steps: int


SD_VAE = VAE | {"latent_channels": 4, "scaling_factor": 0.18215, "sample_size": 256}
_TINY = {"hidden_size": 32, "num_heads": 2, "sample_size": 8, "num_classes": 5}
SIZES = {
    # Source: BFM-XL as released, SiT-XL/2, and the configuration in stabilityai/sd-vae-ft-ema.
    "XL": FlowSize(
        blockwise=BFM_SIZES["XL"],
        dense=SIT_SIZES["XL"],
        vae=SD_VAE,
        pictures=(1, 8, 32),
        steps=48,
    ),
    "tiny": FlowSize(
        blockwise=_TINY
        | {
            "num_segments": 3,
            "segment_depth": 2,
            "trunk_depth": 2,
            "frn_depth": 1,
            "adaln_rank": 8,
        },
        dense=_TINY | {"depth": 3},
        vae=SD_VAE | TINY_VAE,
        pictures=(1, 2),
        steps=6,
    ),
}


def random_transformer(kind: type[Any], device: str, dtype: torch.dtype, **config: Any) -> Any:
    """A model of one of the two kinds."""
    torch.manual_seed(0)
    with created_on(device, dtype):
        model = kind(**config)
        for layer in model.modules():
            # Modulations and the final layer start at zero. The velocity would be zero, too, and
            # equal latents would prove nothing.
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    return model.eval().requires_grad_(False)


def random_blockwise(size: FlowSize, device: str, dtype: torch.dtype) -> BFMPipeline:
    """A pipeline around BFM's transformer."""
    model = random_transformer(BFMTransformer2DModel, device, dtype, **size.blockwise)
    return _pipeline(model, size, device, dtype)


def random_dense(size: FlowSize, device: str, dtype: torch.dtype) -> BFMPipeline:
    """A pipeline around SiT."""
    model = random_transformer(SiTTransformer2DModel, device, dtype, **size.dense)
    return _pipeline(model, size, device, dtype)


def _pipeline(model: Any, size: FlowSize, device: str, dtype: torch.dtype) -> BFMPipeline:
    with created_on(device, dtype):
        vae = diffusers.AutoencoderKL(**size.vae).eval().requires_grad_(False)
    pipe = BFMPipeline(vae, model, diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0))
    pipe.set_progress_bar_config(disable=True)
    return pipe
