"""Scores of every step of a recording: what tuning and the ranking figures start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rewards.noise_aware.recording import Recording
from rewards.protocol import Reward, call_reward, scorer_at


def score_recording(
    reward: Reward,
    recording: Recording,
    prompt_indices: Sequence[int] | None = None,
    *,
    max_images: int = 64,
    on_prompt: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """What `reward` says of every recorded picture, float32 `(prompts, images, steps)`.

    Early estimates are judged as such by a noise-aware reward; the last step is the finished
    picture.
    """
    chosen = range(len(recording.prompts)) if prompt_indices is None else prompt_indices
    rows = []
    for index in chosen:
        texts = [recording.prompts[index]] * recording.num_images
        steps = []
        for step, sigma in enumerate(recording.sigmas):
            is_early = step < recording.num_steps - 1
            scorer = scorer_at(reward, sigma if is_early else None)
            pictures = recording.pictures([index], step)[0].float() / 255
            steps.append(call_reward(scorer, pictures, texts, max_images))
        rows.append(torch.stack(steps, dim=1))
        on_prompt(1)
    return torch.stack(rows)
