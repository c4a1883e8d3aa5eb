"""Figures of the noise-aware `shapes-clip`: how well early scores rank, on held-out prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gensift.pipelines.loading import load_pipeline
from gensift.protocols import JsonObject
from gensift.zoo.shapes.geneval import benchmark
from rewards.noise_aware.recording import Recording
from rewards.registry import load_reward
from samplers.diffusion.record import RecordConfig, record
from samplers.tuning.ranking import kendall_tau
from samplers.tuning.recordings import ScoreTensors
from samplers.tuning.scored_recording import scored

PER_CATEGORY = 24
RECORDING = RecordConfig(num_images=64, seed=73, prompts_per_shard=4, max_rows=64)


EARLY = (0.20, 0.40)
"""Shares of the schedule between which early ranking is averaged."""


def evaluate() -> JsonObject:
    """Kendall's tau within a prompt per step, plain and noise-aware; 64 prompts x 16 images."""
    with tempfile.TemporaryDirectory() as folder:
        recording = record_held_out_prompts(
            Path(folder), per_category=12, config=replace(RECORDING, num_images=16)
        )
        rewards = {
            "plain": load_reward("shapes-clip", noise_aware=False),
            "noise_aware": load_reward("shapes-clip"),
        }
        tau = {name: tau_per_step(scored(recording, r)) for name, r in rewards.items()}
    early = {name: early_mean(values) for name, values in tau.items()}
    return {"kendall_tau_early": early, "kendall_tau": tau, "sigmas": recording.sigmas}


def tau_per_step(scores: ScoreTensors) -> list[float]:
    """Kendall's tau of each early step against the final scores, for a single reward."""
    (parts,) = scores.rewards.values()
    steps = range(scores.num_steps - 1)
    return [kendall_tau(parts.early[:, :, step], parts.final) for step in steps]


def early_mean(tau: Sequence[float]) -> float:
    """Mean over the step indices from 20 % to 40 % of the schedule."""
    first, last = (round(share * (len(tau) + 1)) for share in EARLY)
    return sum(tau[first : last + 1]) / (last + 1 - first)


def record_held_out_prompts(
    folder: Path,
    *,
    per_category: int = PER_CATEGORY,
    config: RecordConfig = RECORDING,
    **pipeline_kwargs: Any,
) -> Recording:
    """Trajectories of held-out prompts, recorded or already there; arguments for the pipeline."""
    pipe = load_pipeline("shapes-flux", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    record(
        pipe,
        [str(meaning) for meaning in benchmark(per_category)],
        {"shapes-clip": load_reward("shapes-clip", noise_aware=False)},
        folder,
        config,
        description={"model": "shapes-flux", **pipeline_kwargs},
        **pipeline_kwargs,
    )
    return Recording(folder)
