"""The committed noise-aware weights: those of the recipe, and better at ranking the held-out."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import gensift
from apps.training.zoo.noise_aware_evaluation import (
    RECORDING,
    early_mean,
    record_held_out_prompts,
    tau_per_step,
)
from apps.training.zoo.noise_aware_shapes_clip import PROMPTS, TRAINING, training_prompts
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.split import held_out_meanings
from rewards.noise_aware.storage import CONFIG
from samplers.tuning.scored_recording import scored

STEPS = 20


def test_the_committed_weights_are_those_of_the_recipe() -> None:
    config = json.loads((model_folder("shapes-clip-noise-aware") / CONFIG).read_text())
    assert (config["storage"], config["rank"]) == (TRAINING.storage, TRAINING.rank)
    # Those of shapes-flux fall evenly.
    trained = range(round(TRAINING.since * STEPS), round(TRAINING.until * STEPS))
    assert config["sigmas"] == pytest.approx([1 - step / STEPS for step in trained])


def test_no_held_out_prompt_is_trained_on() -> None:
    drawn = training_prompts(PROMPTS)
    assert len(drawn) == PROMPTS
    assert not set(drawn) & set(held_out_meanings())


def test_they_rank_early_estimates_of_held_out_prompts_better(tmp_path: Path) -> None:
    config = replace(RECORDING, num_images=12)
    recording = record_held_out_prompts(tmp_path, per_category=2, config=config)
    plain, aware = (
        early_mean(tau_per_step(scored(recording, gensift.load_reward("shapes-clip", **options))))
        for options in ({"noise_aware": False}, {})
    )
    # 0.13 on 115 prompts with 64 pictures; few of both leave a good deal to chance.
    assert aware > plain + 0.05
