"""What tests of the search over next-scale models draw with, and judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from helpers.next_scale import (
    infinity_tokenizer,
    infinity_transformer,
    randomised,
    text_encoder,
    text_tokenizer,
    var_tokenizer,
)
from torch import Tensor, nn

from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.var.pipeline import VARPipeline
from gensift.pipelines.var.transformer import VARTransformer
from gensift.randomness import make_generators

SIDES = (1, 2, 3, 4, 5, 6)
SOFT: dict[str, dict[str, Any]] = {
    "infinity": {"temperature": 1.0, "top_p": 0.0},
    "var": {"top_k": 0, "top_p": 0.0},
}
"""Call arguments that leave tokens to chance."""
COLD: dict[str, dict[str, Any]] = {
    "infinity": {"temperature": 1.0, "top_p": 1e-6},
    "var": {"top_k": 1, "top_p": 0.0},
}
"""Call arguments that leave nothing to chance."""
UNGUIDED = {"infinity": 1.0, "var": 0.0}
PROMPTS = {"infinity": ["a red circle", "two blue square"], "var": ["cock", "tench"]}


def searchable(family: str) -> Any:
    """A pipeline of six scales."""
    pipe: Any
    if family == "var":
        transformer = VARTransformer(2, 2, 8, 5, 24, 4, SIDES)
        pipe = VARPipeline(randomised(transformer), var_tokenizer(), {0: "tench", 3: "cock"})
    else:
        pipe = InfinityPipeline(
            infinity_transformer(),
            infinity_tokenizer(),
            text_encoder(),
            text_tokenizer(),
            scales=[(side, side) for side in SIDES],
        )
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        # Random logits are so far apart that candidates would come out alike.
        pipe.transformer.head.weight.mul_(0.1)
        pipe.transformer.head.bias.mul_(0.1)
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
