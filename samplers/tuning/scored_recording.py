"""Scores of a recorded set of trajectories, computed once and kept beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from gensift.errors import ConfigError
from gensift.files import write_atomically
from rewards.digest import weights_digest
from rewards.noise_aware.recording import Recording
from rewards.noise_aware.scoring import score_recording
from rewards.protocol import Reward, is_noise_aware, reward_name
from samplers.tuning.recordings import ScoreTensors, read_scores

DIGEST = "weights"
"""Key of the file's metadata that says which weights the scores are by."""


def scored(
    recording: Recording,
    reward: Reward,
    *,
    label: str = "",
    on_prompt: Callable[[int], None] = lambda count: None,
) -> ScoreTensors:
    """What `reward` says of every recorded step, and the recorded final scores.

    Kept as `scores-NAME.safetensors` in the recording's folder, where a later call with the same
    weights finds it.

    Args:
        recording: with final scores of this reward.
        reward: noise-aware or not.
        label: part of the file's name, for rewards of one name with different options.
        on_prompt: called with 1 after every prompt that was scored.

    Raises:
        ConfigError: the recording has no final scores of this reward.
    """
    final = recording.scores(reward_name(reward))
    kind = "noise-aware" if is_noise_aware(reward) else "plain"
    parts = ["scores", reward_name(reward), kind, *([label] if label else [])]
    file = recording.folder / f"{'-'.join(parts)}.safetensors"
    digest = weights_digest(reward)
    if file.exists():
        found = read_scores(file)
        is_whole = found.prompts == recording.prompts and found.num_images == recording.num_images
        if is_whole and _digest_in(file) == digest:
            return found
    early = score_recording(reward, recording, on_prompt=on_prompt)
    tensors = {"early": early, "final": final, "sigmas": torch.tensor(recording.sigmas)}
    metadata = {"prompts": json.dumps(recording.prompts), DIGEST: digest}
    write_atomically(file, save(tensors, metadata=metadata))
    return read_scores(file)


def _digest_in(file: Path) -> str | None:
    with safe_open(file, framework="numpy") as opened:
        return (opened.metadata() or {}).get(DIGEST)


def only_reward(recording: Recording) -> str:
    """Name of the recording's reward where there is just one.

    Raises:
        ConfigError: there are several, or none.
    """
    if len(recording.reward_names) != 1:
        names = ", ".join(recording.reward_names) or "none"
        raise ConfigError(f"The recording has final scores of {names}; choose one with --reward.")
    return recording.reward_names[0]
