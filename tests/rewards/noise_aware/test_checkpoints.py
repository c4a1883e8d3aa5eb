import pytest
from helpers.noise_aware import (
    SHORT,
    STORAGES,
    brightness_reward,
    equal_weights,
    inverted_recording,
    trained,
)

from apps.training.noise_aware.training import CHECKPOINT, NoiseAwareTraining, train
from gensift.errors import ConfigError


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("stop_at", [(1,), (3,), (4, 5), (5, 8, 9, 10, 12)])
def test_resumed_training_equals_an_undisturbed_one(storage, stop_at, recording, tmp_path):
    # Three phases of 3 steps and 4 joint ones; saved after every second one and at phase ends.
    expected = trained(recording, tmp_path / "whole", storage)
    found = trained(recording, tmp_path / "parts", storage, stop_at)
    assert equal_weights(found, expected)
    assert not equal_weights(trained(recording, tmp_path / "other", storage, seed=1), expected)


def test_a_finished_training_is_not_repeated(recording, tmp_path):
    expected = trained(recording, tmp_path / "out", "lora")
    steps = []
    config = NoiseAwareTraining(storage="lora", joint_steps=4, **SHORT)
    found = train(
        brightness_reward(), recording, tmp_path / "out", config, on_step=lambda *a: steps.append(a)
    )
    assert not steps and equal_weights(found, expected)


OTHERS = {
    "storage": "lora",
    "rank": 3,
    "until": 0.5,
    "steps_per_phase": 4,
    "joint_steps": 5,
    "within_prompt": 0.5,
    "seed": 1,
    "held_out": 0.5,
}


@pytest.mark.parametrize("option", OTHERS)
def test_other_options_in_the_same_folder_are_refused(option, recording, tmp_path):
    train(brightness_reward(), recording, tmp_path, NoiseAwareTraining(**SHORT))
    with pytest.raises(ConfigError, match="holds a training with other options"):
        other = NoiseAwareTraining(**SHORT | {option: OTHERS[option]})
        train(brightness_reward(), recording, tmp_path, other)


def test_another_recording_or_reward_in_the_same_folder_is_refused(recording, tmp_path):
    base = brightness_reward()
    config = NoiseAwareTraining(**SHORT)
    train(base, recording, tmp_path / "out", config)
    changed = {
        "prompts": inverted_recording(tmp_path / "b", base, prompts=list("abcdefghijkl")),
        "count": inverted_recording(tmp_path / "c", base, prompts=list("abcdefgh")),
    }
    with pytest.raises(ConfigError, match="other options"):
        other = inverted_recording(tmp_path / "d", base, sigmas=(1.0, 0.7, 0.5, 0.2))
        train(base, other, tmp_path / "out", config)
    for name in ("prompts", "count"):
        with pytest.raises(ConfigError, match="other options"):
            train(base, changed[name], tmp_path / "out", config)
    renamed = brightness_reward()
    renamed.name = "glare"
    with pytest.raises(ConfigError, match="other options"):
        recorded = inverted_recording(tmp_path / "e", renamed)
        train(renamed, recorded, tmp_path / "out", config)


def test_a_lower_rate_may_go_on_from_a_checkpoint(recording, tmp_path):
    def stop(done, total, loss):
        if done == 5:
            raise KeyboardInterrupt

    config = NoiseAwareTraining(**SHORT)
    with pytest.raises(KeyboardInterrupt):
        train(brightness_reward(), recording, tmp_path, config, on_step=stop)
    steps = []
    lower = NoiseAwareTraining(**SHORT, learning_rate=1e-5)
    train(brightness_reward(), recording, tmp_path, lower, on_step=lambda d, t, x: steps.append(d))
    assert steps == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_damaged_checkpoint_is_named(size, recording, tmp_path):
    train(brightness_reward(), recording, tmp_path, NoiseAwareTraining(**SHORT))
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ConfigError, match=f"{CHECKPOINT}' .*delete it"):
        train(brightness_reward(), recording, tmp_path, NoiseAwareTraining(**SHORT))
