"""A digest stands for the weights: for all of them, wherever they lie, and for nothing else."""

import torch
from helpers.noise_aware import SIGMAS, toy_reward

from apps.training.noise_aware.training import trainable_weights
from rewards.digest import weights_digest
from rewards.noise_aware.reward import NoiseAwareReward
from rewards.noise_aware.weights import make_weights


def test_equal_weights_have_one_digest_and_any_other_value_another() -> None:
    digest = weights_digest(toy_reward())
    assert weights_digest(toy_reward()) == digest != weights_digest(toy_reward(seed=1))
    for name, _ in toy_reward().model.named_parameters():
        other = toy_reward()
        with torch.no_grad():
            other.model.get_parameter(name).view(-1)[-1] += 1e-3
        assert weights_digest(other) != digest, name


def test_noise_aware_weights_count_too() -> None:
    base = toy_reward()
    torch.manual_seed(0)
    weights = make_weights("sigma-adapter", trainable_weights(base), SIGMAS, 2)
    reward = NoiseAwareReward(base, weights)
    digests = {weights_digest(base), weights_digest(reward)}
    with torch.no_grad():
        next(reward.weights.parameters()).view(-1)[0] += 1e-3
    digests.add(weights_digest(reward))
    reward.weights.sigmas = reward.weights.sigmas[:-1]
    assert len(digests | {weights_digest(reward)}) == 4


def test_half_precision_and_rewards_without_networks() -> None:
    reward = toy_reward()
    digest = weights_digest(reward)
    reward.model.to(torch.bfloat16)
    assert weights_digest(reward) != digest
    assert weights_digest(lambda images, prompts: images) == weights_digest(len)
