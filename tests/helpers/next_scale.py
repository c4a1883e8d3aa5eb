"""Small next-scale pipelines with random weights, in which every part matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.randomness import make_generators
from gensift.zoo.recipes.vocabulary import T5_LENGTH, build_t5_tokenizer

SIDES = (1, 2, 3, 4, 5, 6)
SOFT = {"temperature": 1.0, "top_p": 0.0}
"""Call arguments under which random weights draw random tokens."""


def randomize(module: nn.Module, seed: int = 0, std: float = 0.3) -> None:
    """Redraw all parameters, so that gates, shifts and biases are not what they start as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def tiny_infinity(sides: Sequence[int] = SIDES, patch_size: int = 1) -> InfinityPipeline:
    """An Infinity with two blocks and four latent channels, drawing 12 pixels of 2 a token."""
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(build_t5_tokenizer()),
            d_model=16,
            d_ff=16,
            d_kv=8,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
    )
    vae = InfinityTokenizer(4, (8, 8), 1, 4, patch_size)
    transformer = InfinityTransformer(2, 2, 8, vae.token_channels, 16, T5_LENGTH, 2, 32)
    for number, module in enumerate((text_encoder, vae, transformer)):
        randomize(module, number)
    pipe = InfinityPipeline(
        transformer.eval(),
        vae.eval(),
        text_encoder.eval(),
        build_t5_tokenizer(),
        scales=[(side, side) for side in sides],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Brightness:
    """A reward that needs no network: the mean of a picture, whatever the prompt."""

    name = "brightness"

    def __init__(self) -> None:
        self.pictures = 0

    def __call__(self, images: Any, prompts: Sequence[str], /) -> Tensor:
        self.pictures += len(images)
        return images.float().mean((1, 2, 3)) * 10  # type: ignore[no-any-return]


def patches(images: Tensor) -> Tensor:
    """An embedding that needs no network: the mean colours of 3 x 3 patches."""
    return nn.functional.adaptive_avg_pool2d(images, 3).flatten(2).transpose(1, 2)


def generators(*seeds: int) -> list[torch.Generator]:
    """One generator for each seed."""
    return make_generators(seeds)
