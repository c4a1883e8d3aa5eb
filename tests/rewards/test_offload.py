"""Networks move to their device for a call and back, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers.noise_aware import toy_reward
from torch import Tensor, nn

from gensift.errors import ConfigError
from rewards.combine import CompositeReward
from rewards.noise_aware.reward import NoiseAwareReward
from rewards.noise_aware.weights import make_weights
from rewards.offload import OffloadedReward, offload_reward, reward_modules
from rewards.protocol import call_reward, is_noise_aware, reward_name
from rewards.shapes import ShapesVerifierReward

IMAGES = torch.rand(3, 3, 8, 8)
PROMPTS = ["a", "b", "c"]
GPU = "cuda:1"


class Recorder(nn.Module):
    """A network that goes nowhere, but says where it was sent."""

    def __init__(self, log: list[str], name: str = "net") -> None:
        super().__init__()
        self.log, self.name = log, name

    def to(self, device: str) -> Recorder:  # type: ignore[override]
        self.log.append(f"{self.name} to {device}")
        return self


class Fake:
    """A reward with networks in its attributes."""

    def __init__(self, log: list[str], name: str = "fake") -> None:
        self.name, self.log = name, log
        self.model, self.head = Recorder(log, f"{name}.model"), Recorder(log, f"{name}.head")
        self.scale = 2.0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.log.append(f"{self.name} judges")
        return images.flatten(1).mean(1)


class NoiseAware(Fake):
    def at_sigma(self, sigma: float) -> Callable[..., Tensor]:
        def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
            self.log.append(f"judges at {sigma}")
            return images.flatten(1).mean(1) - sigma

        return score


def test_of_a_noise_aware_reward_the_network_moves_too() -> None:
    base = toy_reward()
    sigmas = (0.9, 0.5)
    weights = make_weights("lora", dict(base.model.named_parameters()), sigmas, 2)
    found = reward_modules(NoiseAwareReward(base, weights))
    assert any(module is base.model for module in found)
    assert any(module is weights for module in found)


def round_trip(name: str, event: str) -> list[str]:
    there = [f"{name}.{part} to {GPU}" for part in ("model", "head")]
    return [*there, event, *(step.replace(GPU, "cpu") for step in there)]


def test_networks_are_on_the_device_during_a_call_only() -> None:
    log: list[str] = []
    reward = offload_reward(Fake(log), GPU)
    assert log == ["fake.model to cpu", "fake.head to cpu"]
    log.clear()
    scores = call_reward(reward, IMAGES, PROMPTS)
    assert log == round_trip("fake", "fake judges")
    assert torch.equal(scores, IMAGES.flatten(1).mean(1))
    assert reward_name(reward) == "fake"


def test_they_come_back_when_the_call_fails() -> None:
    class Failing(Fake):
        def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            raise torch.OutOfMemoryError

    log: list[str] = []
    reward = offload_reward(Failing(log), GPU)
    with pytest.raises(torch.OutOfMemoryError):
        reward(IMAGES, PROMPTS)
    assert log[-2:] == ["fake.model to cpu", "fake.head to cpu"]


def test_parts_of_a_composite_take_turns() -> None:
    log: list[str] = []
    parts: dict[str, Any] = {"one": Fake(log, "one"), "two": Fake(log, "two")}
    plain = CompositeReward(parts, {"one": 3.0})
    moved = offload_reward(plain, GPU)
    assert isinstance(moved, CompositeReward)
    assert (moved.rule, moved.weights) == (plain.rule, plain.weights)
    log.clear()
    scores = moved(IMAGES, ["a"] * 3)
    assert log == [*round_trip("one", "one judges"), *round_trip("two", "two judges")]
    assert torch.equal(scores, plain(IMAGES, ["a"] * 3))


def test_noise_aware_rewards_stay_so_and_their_scorers_move_too() -> None:
    log: list[str] = []
    reward = offload_reward(NoiseAware(log), GPU)
    assert is_noise_aware(reward)
    assert not is_noise_aware(offload_reward(Fake(log), GPU))
    log.clear()
    scorer: Any = reward.at_sigma(0.5)  # type: ignore[attr-defined]
    log.clear()
    scorer(IMAGES, PROMPTS)
    assert log == round_trip("fake", "judges at 0.5")


def test_a_reward_without_networks_is_left_as_it_is() -> None:
    def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))

    verifier = ShapesVerifierReward()
    assert offload_reward(score, GPU) is score
    assert offload_reward(verifier, GPU) is verifier


def test_a_reward_that_is_a_network_moves_itself() -> None:
    net = nn.Linear(1, 1)
    assert reward_modules(net) == [net]


def test_gradients_cannot_be_moved() -> None:
    reward = Fake([])
    reward.differentiable = True  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="'fake' is differentiable and cannot be moved"):
        offload_reward(reward, GPU)


def test_a_real_reward_scores_the_same(clip_folder: Any) -> None:
    from rewards.open_clip_score import load_clip_score

    plain = load_clip_score(str(clip_folder))
    moved = offload_reward(load_clip_score(str(clip_folder)), "cpu")
    assert isinstance(moved, OffloadedReward)
    images = torch.rand(2, 3, 32, 32)
    for _ in range(2):
        assert torch.equal(moved(images, ["a", "b"]), plain(images, ["a", "b"]))
