"""Rewards, and pipeline calls with and without a search, for tests on speaking pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from helpers.speaking_pipelines import SIZE
from torch import Tensor

import gensift
from samplers.diffusion.search import DiffusionSearch

PROMPT = "a red circle"

TOLERANCE = 2e-5  # pictures in [0, 1]; batch-size rounding of random networks


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).std(1)


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def pictures(pipe: Any, prompt: Any = PROMPT, **arguments: Any) -> Tensor:
    """What a pipeline call returns, `(rows, 3, height, width)` in [0, 1]."""
    images: Tensor = pipe(prompt, **{**SIZE, **arguments}, output_type="pt").images
    return images


def plain(pipe: Any, seeds: Sequence[int], prompt: str = PROMPT, **arguments: Any) -> Tensor:
    """The pictures of `seeds`, nothing attached."""
    count = {"num_images_per_prompt": len(seeds), "generator": generators(seeds)}
    return pictures(pipe, prompt, **count, **arguments)


def sifted(search: DiffusionSearch, pipe: Any, *args: Any, **arguments: Any) -> Any:
    """Pictures of one attached call, and the run's output."""
    with gensift.attach(search, pipe) as run:
        images = pictures(pipe, *args, **arguments)
    return images, run.output


def close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= TOLERANCE)
