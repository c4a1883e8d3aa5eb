import copy
import math

import pytest
import torch
from helpers.noise_aware import SIGMAS, ToyReward, assert_same_state, state_of, toy_reward
from torch import nn
from torch.func import functional_call

from apps.training.noise_aware.training import trainable_weights
from gensift.errors import ConfigError, RewardError
from rewards.combine import CompositeReward
from rewards.noise_aware.reward import NoiseAwareReward, check_base
from rewards.noise_aware.weights import make_weights
from rewards.open_clip_score import OpenClipReward, load_clip_score
from rewards.preprocess import Preprocess
from rewards.protocol import is_noise_aware, reward_name

from .conftest import BASES

STORAGES = ("sigma-adapter", "lora", "full")
PROMPTS = ["a red circle", "two blue squares", "a red circle left of a blue square"]
INSIDE, OUTSIDE = 0.6, 0.01


def spread(weights, size=0.1):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in weights.parameters():
            value += size * torch.randn(value.shape, generator=generator)
    return weights


def noise_aware(base, storage="sigma-adapter", size=0.1, names=None):
    torch.manual_seed(3)
    chosen = {
        name: value
        for name, value in trainable_weights(base).items()
        if names is None or name in names
    }
    return NoiseAwareReward(base, spread(make_weights(storage, chosen, SIGMAS, 2), size))


def by_hand(reward, sigma, pictures, prompts=PROMPTS):
    """On a copy of the base whose own weights are overwritten."""
    base = copy.deepcopy(reward.base)
    with torch.no_grad():
        for name, value in reward.weights.applied(
            dict(base.model.named_parameters()), sigma
        ).items():
            base.model.get_parameter(name).copy_(value)
    return base(pictures, prompts)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_fresh_weights_score_as_the_base_does_bit_for_bit(base_reward, storage, pictures):
    reward = noise_aware(base_reward, storage, size=0)
    print({n: p.data_ptr() % 64 for n, p in base_reward.model.named_parameters()})
    expected = base_reward(pictures, PROMPTS)
    assert expected.unique().numel() == 3
    for sigma in (*SIGMAS, 0.6, OUTSIDE):
        assert torch.equal(reward.at_sigma(sigma)(pictures, PROMPTS), expected)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_early_scores_are_those_of_the_network_with_changed_weights(base_reward, storage, pictures):
    reward = noise_aware(base_reward, storage)
    for sigma in (1.0, 0.6, 0.2):
        scores = reward.at_sigma(sigma)(pictures, PROMPTS)
        assert scores.dtype == torch.float32 and scores.shape == (3,)
        torch.testing.assert_close(scores, by_hand(reward, sigma, pictures), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(scores, base_reward(pictures, PROMPTS))


@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_finished_pictures_are_judged_by_the_base(base_reward, pictures):
    reward = noise_aware(base_reward)
    expected = base_reward(pictures, PROMPTS)
    assert torch.equal(reward(pictures, PROMPTS), expected)
    assert not torch.equal(reward.at_sigma(INSIDE)(pictures, PROMPTS), expected)
    assert torch.equal(reward(pictures, PROMPTS), expected)


@pytest.mark.parametrize("sigma", [OUTSIDE, 0.0, math.nan])
def test_outside_the_trained_range_the_base_answers(sigma):
    base = toy_reward()
    assert noise_aware(base).at_sigma(sigma) is base


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_the_base_network_is_left_alone(base_reward, storage, pictures):
    before, texts = state_of(base_reward.model), dict(vars(base_reward))
    reward = noise_aware(base_reward, storage)
    reward.at_sigma(INSIDE)(pictures, PROMPTS)
    with pytest.raises(RewardError):
        reward.at_sigma(INSIDE)(pictures, PROMPTS[:2])
    assert_same_state(before, state_of(base_reward.model))
    assert base_reward.differentiable is False
    assert vars(base_reward) == texts


class Failing(ToyReward):
    def __call__(self, images, prompts, /):
        if "fail" in prompts:
            super().__call__(images, prompts)
            raise KeyboardInterrupt
        return super().__call__(images, prompts)


def test_the_base_is_left_alone_by_an_exception_inside(pictures):
    base = Failing(toy_reward().model)
    base.model.train()
    before = state_of(base.model)
    weights = {id(value) for value in base.model.parameters()}
    reward = noise_aware(base)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reward.at_sigma(INSIDE)(pictures, ["fail"] * 3)
        assert_same_state(before, state_of(base.model))
        assert {id(value) for value in base.model.parameters()} == weights
    assert base.differentiable is False


def test_asking_trains_nothing(pictures):
    base = toy_reward()
    assert all(value.requires_grad for value in base.model.parameters())
    reward = noise_aware(base)
    scores = reward.at_sigma(INSIDE)(pictures, PROMPTS)
    assert not scores.requires_grad
    assert not reward.weights.training


def test_a_differentiable_base_stays_differentiable(clip_folder, pictures):
    base = load_clip_score(str(clip_folder), differentiable=True)
    reward = noise_aware(base)
    reward.at_sigma(INSIDE)(pictures, PROMPTS)
    wanted = pictures.clone().requires_grad_()
    reward(wanted, PROMPTS).sum().backward()
    assert base.differentiable is True and wanted.grad.abs().sum() > 0


@pytest.mark.parametrize("storage", STORAGES)
def test_alternating_noise_levels_score_as_fresh_objects_do(storage, pictures):
    base = toy_reward()
    reward = noise_aware(base, storage)
    early = {sigma: reward.at_sigma(sigma) for sigma in SIGMAS}
    for sigma in (1.0, 0.5, 0.5, 1.0, 0.2, 0.8, 1.0, 0.5):
        expected = NoiseAwareReward(base, reward.weights).at_sigma(sigma)(pictures, PROMPTS)
        assert torch.equal(early[sigma](pictures, PROMPTS), expected)
        assert torch.equal(reward.at_sigma(sigma)(pictures, PROMPTS), expected)
    scores = torch.stack([early[sigma](pictures, PROMPTS) for sigma in SIGMAS])
    assert len(scores.unique(dim=0)) == len(SIGMAS)


def test_a_base_that_was_moved_is_scored_where_it_is(pictures):
    base = toy_reward()
    reward = noise_aware(base)
    before = reward.at_sigma(INSIDE)(pictures, PROMPTS)
    base.model.double()  # what `.to(device)` does, without a second device
    found = reward.at_sigma(INSIDE)(pictures, PROMPTS)
    torch.testing.assert_close(found, before, rtol=0, atol=1e-5)
    assert torch.equal(
        found, NoiseAwareReward(base, reward.weights).at_sigma(INSIDE)(pictures, PROMPTS)
    )


@pytest.mark.parametrize("base_reward", BASES, indirect=True)
def test_a_picture_alone_scores_as_in_a_batch(base_reward, pictures):
    early = noise_aware(base_reward).at_sigma(INSIDE)
    batch = early(pictures, PROMPTS)
    single = [early(pictures[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(single), rtol=0, atol=2e-5)


class OneTower(nn.Module):
    """A CLIP-like model that reads pictures and prompts by the same weights."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(12, 5)

    def encode_image(self, pixels):
        return self.shared(nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1))

    def encode_text(self, tokens):
        return self.shared(tokens.float())


def one_tower():
    torch.manual_seed(0)
    prepare = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)

    def tokenize(prompts):
        return torch.tensor([[len(text) * i % 7 for i in range(12)] for text in prompts])

    return OpenClipReward(OneTower().requires_grad_(False), prepare, tokenize)


@pytest.mark.parametrize("asked_first", ["early", "finished"])
@pytest.mark.parametrize("make", [one_tower, "clip-score"])
def test_prompts_are_always_encoded_by_the_base(make, asked_first, clip_folder, pictures):
    base = load_clip_score(str(clip_folder)) if make == "clip-score" else make()
    pristine = copy.deepcopy(base)
    reward = noise_aware(base, size=0.5)
    if asked_first == "finished":
        reward(pictures, PROMPTS)
    scores = reward.at_sigma(INSIDE)(pictures, PROMPTS)
    assert torch.equal(base(pictures, PROMPTS), pristine(pictures, PROMPTS))
    # Whoever asks first, early scores are the same.
    image = functional_call(
        Encoder(base.model),
        {
            f"model.{name}": value.detach()
            for name, value in reward.weights.applied(
                dict(base.model.named_parameters()), INSIDE
            ).items()
        },
        (base.preprocess(pictures),),
    )
    text = pristine.model.encode_text(pristine.tokenizer(PROMPTS))
    expected = torch.cosine_similarity(image, text)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)


class Encoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model.encode_image(pixels)


def test_it_has_the_name_of_the_base_and_is_noise_aware():
    base = toy_reward()
    reward = noise_aware(base)
    assert reward_name(reward) == reward_name(reward.at_sigma(INSIDE)) == "toy"
    assert is_noise_aware(reward) and not is_noise_aware(base)
    assert not is_noise_aware(reward.at_sigma(INSIDE))
    assert is_noise_aware(CompositeReward({"x": reward}).parts["x"])
    assert reward.model is base.model


@pytest.mark.parametrize(
    "reward",
    [lambda images, prompts: images.mean((1, 2, 3)), nn.Linear(2, 2), noise_aware(toy_reward())],
)
def test_rewards_without_a_network_are_refused(reward):
    with pytest.raises(ConfigError, match="no network to train; give clip-score"):
        check_base(reward)


def test_weights_of_another_network_are_refused():
    base, weights = toy_reward(), noise_aware(toy_reward()).weights
    base.model.first = nn.Linear(3, 7)
    with pytest.raises(
        ConfigError, match=r"'first\.(weight|bias)'.* give those of this very model"
    ):
        NoiseAwareReward(base, weights)
    base.model.first = nn.Identity()
    with pytest.raises(ConfigError, match=r"'first\.(weight|bias)', which 'toy' does not have"):
        NoiseAwareReward(base, weights)
