"""Tiny pipelines that take prompts as text: their encoders give each text embeddings of its own.

pipe = speaking("flux")
images = pipe("a red circle", num_images_per_prompt=3, **SIZE).images
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from helpers.tiny_pipelines import TEXT_TOKENS, build, text

SIZE = {"height": 16, "width": 16, "num_inference_steps": 6}


def speaking(family: str, scheduler: str | None = None) -> Any:
    """A tiny pipeline, "flux", "sd15" or "sdxl", whose `encode_prompt` needs no text encoder."""
    pipe = build(family, scheduler).pipe
    pipe.encode_prompt = {"flux": _encode_flux, "sd15": _encode_sd, "sdxl": _encode_sdxl}[family]
    return pipe


def _encode_flux(
    prompt: Any,
    *,
    num_images_per_prompt: int,
    prompt_embeds: torch.Tensor | None = None,
    pooled_prompt_embeds: torch.Tensor | None = None,
    **_: Any,
) -> tuple[Any, Any, Any]:
    if prompt_embeds is None:
        seeds = _seeds(prompt, num_images_per_prompt)
        prompt_embeds, pooled_prompt_embeds = text(seeds, TEXT_TOKENS, 32), text(seeds, 16, salt=2)
    return prompt_embeds, pooled_prompt_embeds, torch.zeros(TEXT_TOKENS, 3)


def _encode_sd(
    prompt: Any,
    device: Any,
    num_images_per_prompt: int,
    is_guided: bool,
    negative_prompt: Any = None,
    **_: Any,
) -> tuple[Any, ...]:
    count = 1 if isinstance(prompt, str) else len(prompt)
    given = negative_prompt or ""
    negatives = [given] * count if isinstance(given, str) else given
    return tuple(
        text(_seeds(words, num_images_per_prompt), TEXT_TOKENS, 32) for words in (prompt, negatives)
    )


def _encode_sdxl(
    prompt: Any, *, num_images_per_prompt: int, negative_prompt: Any = None, **_: Any
) -> tuple[Any, ...]:
    embeds, negatives = _encode_sd(prompt, None, num_images_per_prompt, True, negative_prompt)
    seeds = _seeds(prompt, num_images_per_prompt)
    return embeds, negatives, text(seeds, 16, salt=2), text([0] * len(seeds), 16, salt=3)


def _seeds(prompt: str | Sequence[str], num_images_per_prompt: int) -> list[int]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    return [zlib.crc32(words.encode()) for words in prompts for _ in range(num_images_per_prompt)]
