"""Figures of the noise-aware `shapes-clip`: how well early scores rank, on held-out prompts."""

from __future__ import annotations

from pathlib import Path

from gensift.pipelines.loading import load_pipeline
from gensift.zoo.shapes.geneval import benchmark
from rewards.noise_aware.recording import Recording
from rewards.registry import load_reward
from samplers.diffusion.record import RecordConfig, record

PER_CATEGORY = 24
RECORDING = RecordConfig(num_images=64, seed=73, prompts_per_shard=4, max_rows=64)


def record_held_out_prompts(folder: Path) -> Recording:
    """Trajectories of held-out prompts, recorded or already there."""
    pipe = load_pipeline("shapes-flux", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    record(
        pipe,
        [str(meaning) for meaning in benchmark(PER_CATEGORY)],
        {"shapes-clip": load_reward("shapes-clip", noise_aware=False)},
        folder,
        RECORDING,
        description={"model": "shapes-flux"},
    )
    return Recording(folder)
