import json

import pytest
import torch
from helpers.noise_aware import SIGMAS, EveryShape, ToyReward, equal_weights, toy_reward
from safetensors.torch import load_file, save_file

from apps.training.noise_aware.training import trainable_weights
from gensift.errors import ConfigError
from rewards.noise_aware.reward import NoiseAwareReward
from rewards.noise_aware.storage import CONFIG, TENSORS, load_noise_aware, save_weights
from rewards.noise_aware.weights import make_weights
from rewards.open_clip_score import load_clip_score
from rewards.registry import load_reward

STORAGES = ("sigma-adapter", "lora", "full")
PROMPTS = ["a red circle", "two blue squares", "a red circle left of a blue square"]


def trained(base, storage="sigma-adapter"):
    """Weights that change something everywhere."""
    torch.manual_seed(0)
    weights = make_weights(storage, trainable_weights(base), SIGMAS, 2)
    with torch.no_grad():
        for value in weights.parameters():
            value += 0.1 * torch.randn(value.shape)
    return weights


@pytest.mark.parametrize("storage", STORAGES)
def test_saved_and_loaded_weights_score_the_same(storage, tmp_path, pictures):
    base, weights = toy_reward(), trained(toy_reward(), storage)
    before = NoiseAwareReward(base, weights)
    save_weights(weights, tmp_path / "exact", reward_name="toy", dtype=torch.float32)
    save_weights(weights, tmp_path / "half", reward_name="toy")
    exact, half = (load_noise_aware(base, tmp_path / name) for name in ("exact", "half"))
    assert equal_weights(exact.weights, weights)
    assert exact.weights.sigmas == weights.sigmas and exact.weights.storage == storage
    assert not equal_weights(half.weights, weights)
    for sigma in (1.0, 0.6, 0.2, 0.0):
        expected = before.at_sigma(sigma)(pictures, PROMPTS)
        # Read weights lie elsewhere in memory, which may tip the last bit of a product.
        scores = exact.at_sigma(sigma)(pictures, PROMPTS)
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
        scores = half.at_sigma(sigma)(pictures, PROMPTS)
        torch.testing.assert_close(scores, expected, rtol=0, atol=5e-3)
    assert not torch.equal(before.at_sigma(1.0)(pictures, PROMPTS), base(pictures, PROMPTS))


@pytest.mark.parametrize("storage", STORAGES)
def test_half_precision_on_disk_is_lost_only_once(storage, tmp_path):
    save_weights(trained(toy_reward(), storage), tmp_path / "a", reward_name="toy")
    loaded = load_noise_aware(toy_reward(), tmp_path / "a").weights
    save_weights(loaded, tmp_path / "b", reward_name="toy")
    for name in (CONFIG, TENSORS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_rewards_are_loaded_with_them_by_name(clip_folder, tmp_path, pictures):
    base = load_clip_score(str(clip_folder))
    save_weights(trained(base), tmp_path, reward_name="clip-score", dtype=torch.float32)
    reward = load_reward("clip-score", model=str(clip_folder), noise_aware=str(tmp_path))
    assert torch.equal(reward(pictures, PROMPTS), base(pictures, PROMPTS))
    expected = NoiseAwareReward(base, trained(base)).at_sigma(0.5)(pictures, PROMPTS)
    found = reward.at_sigma(0.5)(pictures, PROMPTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(found, base(pictures, PROMPTS))
    for off in (False, True):  # the zoo has none for this one
        plain = load_reward("clip-score", model=str(clip_folder), noise_aware=off)
        assert not hasattr(plain, "at_sigma")


@pytest.mark.parametrize("wrong", [3, None, 0.5, ["x"]])
def test_what_is_no_folder_is_refused(wrong, clip_folder):
    with pytest.raises(ConfigError, match="give a folder, true or false"):
        load_reward("clip-score", model=str(clip_folder), noise_aware=wrong)


def test_weights_of_another_reward_are_refused(tmp_path):
    save_weights(trained(toy_reward()), tmp_path, reward_name="toy")
    with pytest.raises(ConfigError, match="are for 'toy', but the reward is 'joy'"):
        load_noise_aware(ToyReward(EveryShape(), "joy"), tmp_path)
    smaller = toy_reward()
    del smaller.model.first
    with pytest.raises(ConfigError, match=r"'toy', but the reward lacks 'first\.\w+'"):
        load_noise_aware(smaller, tmp_path)
    wider = toy_reward()
    wider.model.first = torch.nn.Linear(3, 7)
    with pytest.raises(ConfigError, match="give one of this very model"):
        load_noise_aware(wider, tmp_path)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    base = toy_reward()
    with pytest.raises(ConfigError, match=r"no noise-aware weights \(no noise_aware.json\)"):
        load_noise_aware(base, tmp_path / "none")
    save_weights(trained(base), tmp_path, reward_name="toy")
    good, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / TENSORS)
    for text in ("", "{", "[]", "3", "{}", json.dumps({k: good[k] for k in list(good)[1:]})):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(ConfigError, match="is damaged"):
            load_noise_aware(base, tmp_path)
    bad = {"storage": "dora", "sigmas": [0.2, 0.5], "rank": 3, "changes": good["changes"][:1]}
    for name, value in bad.items():
        (tmp_path / CONFIG).write_text(json.dumps(good | {name: value}))
        with pytest.raises(ConfigError):
            load_noise_aware(base, tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(good))
    for missing in (next(iter(tensors)), next(reversed(tensors))):
        save_file({k: v for k, v in tensors.items() if k != missing}, tmp_path / TENSORS)
        with pytest.raises(ConfigError, match="lacks"):
            load_noise_aware(base, tmp_path)
    (tmp_path / TENSORS).write_bytes(b"torn")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_noise_aware(base, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigmas", "x"), ("sigmas", 0.5), ("rank", "x"), ("rank", 0), ("changes", None)],
)
def test_configs_of_the_wrong_kind_are_named(name, value, tmp_path):
    base = toy_reward()
    save_weights(trained(base), tmp_path, reward_name="toy")
    good = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(good | {name: value}))
    with pytest.raises(ConfigError, match="is damaged"):
        load_noise_aware(base, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_not_finite_on_disk_are_not_saved(value, tmp_path):
    weights = trained(toy_reward())
    with torch.no_grad():
        next(weights.parameters())[0] = value
    with pytest.raises(ConfigError, match="not finite"):
        save_weights(weights, tmp_path, reward_name="toy")
    assert not list(tmp_path.iterdir())
