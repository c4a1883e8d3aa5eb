"""Recipe of the noise-aware `shapes-clip`: record what `shapes-flux` draws, then distil.

Training prompts only. Figures are measured on recordings of held-out prompts, see
`apps.training.zoo.noise_aware_evaluation`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from apps.training.noise_aware.options import NoiseAwareTraining
from apps.training.noise_aware.training import train
from gensift.pipelines.loading import load_pipeline
from gensift.zoo.shapes.grammar import Meaning
from gensift.zoo.shapes.split import training_meanings
from rewards.noise_aware.recording import Recording
from rewards.noise_aware.storage import save_weights
from rewards.registry import load_reward
from samplers.diffusion.record import RecordConfig, record

PROMPTS = 4_096
RECORDING = RecordConfig(num_images=8, seed=71, max_rows=64)
TRAINING = NoiseAwareTraining(
    rank=32,
    since=0.15,
    until=0.55,
    steps_per_phase=50,
    joint_steps=2_700,
    learning_rate=1.5e-3,
    within_prompt=2.0,
    held_out=0.05,
)
MIXTURE = {"single": 0.10, "count": 0.30, "and": 0.20, "relation": 0.40}
SEED = 71


def publish(folder: Path, steps: int | None = None) -> Path:
    """Record and train in `folder`; returns the folder of the finished weights.

    Args:
        folder: where to work; the same call goes on where it stopped.
        steps: of the joint training after the curriculum; None for the recipe's own.
    """
    reward = load_reward("shapes-clip", noise_aware=False)
    recording = record_training_prompts(folder / "recording")
    options = TRAINING if steps is None else replace(TRAINING, joint_steps=steps)
    weights = train(reward, recording, folder / "training", options)
    finished = folder / "model"
    save_weights(weights, finished, reward_name="shapes-clip")
    return finished


def record_training_prompts(folder: Path) -> Recording:
    """Trajectories of training prompts, recorded or already there."""
    pipe = load_pipeline("shapes-flux", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    reward = load_reward("shapes-clip", noise_aware=False)
    record(
        pipe,
        [str(meaning) for meaning in training_prompts(PROMPTS)],
        {"shapes-clip": reward},
        folder,
        RECORDING,
        description={"model": "shapes-flux"},
    )
    return Recording(folder)


def training_prompts(count: int) -> list[Meaning]:
    """Random training prompts in the proportions of `MIXTURE`."""
    rng = np.random.default_rng(SEED)
    by_kind: dict[str, list[Meaning]] = {name: [] for name in MIXTURE}
    for meaning in training_meanings():
        by_kind[_kind(meaning)].append(meaning)
    kinds = rng.choice(list(MIXTURE), size=count, p=list(MIXTURE.values()))
    return [by_kind[str(kind)][rng.integers(len(by_kind[str(kind)]))] for kind in kinds]


def _kind(meaning: Meaning) -> str:
    if meaning.relation is not None:
        return "and" if meaning.relation == "and" else "relation"
    return "single" if meaning.count == 1 else "count"
