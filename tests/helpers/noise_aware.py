"""Rewards with tiny networks, and recordings made by hand, for tests of noise-aware rewards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.training.noise_aware.options import NoiseAwareTraining
from apps.training.noise_aware.training import train
from rewards.noise_aware.recording import Recording, RecordingWriter, Shard
from rewards.noise_aware.weights import NoiseAwareWeights
from rewards.protocol import Images, to_tensor

SIGMAS = (1.0, 0.8, 0.5, 0.2)


class ToyReward:
    """A reward whose network sees the mean colour of a picture; its own weights as given."""

    def __init__(self, model: nn.Module, name: str = "toy") -> None:
        self.model = model
        self.name = name
        self.differentiable = False

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        own = next(self.model.parameters()).dtype
        colours = to_tensor(images, prompts).mean((2, 3)).to(own)
        with nullcontext() if self.differentiable else torch.no_grad():
            scores: Tensor = self.model(colours)
            return scores.flatten().float()


class EveryShape(nn.Module):
    """Weights of zero to four dimensions, one of which no score depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.shift = nn.Parameter(torch.randn(1, 1, 6))
        self.kernel = nn.Parameter(torch.randn(1, 6, 1, 1))
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Linear(2, 2)

    def forward(self, colours: Tensor) -> Tensor:
        hidden = (self.first(colours) + self.shift[0]).tanh()
        scores: Tensor = self.temperature * (hidden @ self.kernel.view(6, 1))
        return scores


def toy_reward(seed: int = 0) -> ToyReward:
    """With weights of every shape, as they come, gradients wanted."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyReward(EveryShape().eval())


def brightness_reward() -> ToyReward:
    """The mean of a picture, by two linear layers."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))
    with torch.no_grad():
        for layer, value in zip(model, (1 / 3, 1 / 8), strict=True):
            layer.weight.fill_(value)  # type: ignore[operator, union-attr]
            layer.bias.zero_()  # type: ignore[operator, union-attr]
    return ToyReward(model.requires_grad_(False), "brightness")


def inverted_recording(
    folder: Path,
    reward: Any,
    *,
    prompts: Sequence[str] | None = None,
    images: int = 6,
    sigmas: Sequence[float] = SIGMAS,
) -> Recording:
    """Every estimate before the last is the negative of the finished picture."""
    texts = list(prompts or [f"prompt {number}" for number in range(12)])
    generator = torch.Generator().manual_seed(0)
    # Prompts differ more than the pictures of one prompt.
    levels = torch.rand(len(texts), 1, generator=generator) * 0.7
    levels = levels + 0.3 * torch.rand(len(texts), images, generator=generator)
    colours = (levels * 255).round().byte()[:, :, None, None, None].expand(-1, -1, 3, 4, 4)
    final = colours.contiguous()
    early = 255 - final
    names = [text for text in texts for _ in range(images)]
    scores = reward(final.flatten(0, 1).float() / 255, names).view(len(texts), images)
    writer = RecordingWriter(folder, {"kind": "inverted"})
    pictures = (*(early.clone() for _ in sigmas[1:]), final)
    for number, start in enumerate(range(0, len(texts), 5)):
        part = slice(start, start + 5)
        shard = Shard(
            prompts=tuple(texts[part]),
            pictures=tuple(step[part] for step in pictures),
            scores={reward.name: scores[part]},
            seeds=torch.zeros(len(texts[part]), images, dtype=torch.int64),
            sigmas=torch.tensor(sigmas),
        )
        writer.write(number, shard)
    return Recording(folder)


def state_of(module: nn.Module) -> dict[str, Any]:
    """What training must leave alone: values, gradients, what wants them, and the mode."""
    named = module.named_parameters()
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "wanted": {name: value.requires_grad for name, value in module.named_parameters()},
        "gradients": [name for name, value in named if value.grad is not None],
        "training": [part.training for part in module.modules()],
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["values"].keys() == after["values"].keys()
    for name, value in before["values"].items():
        assert torch.equal(value, after["values"][name]), name
    for part in ("wanted", "gradients", "training"):
        assert before[part] == after[part], part


def equal_weights(left: nn.Module, right: nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


STORAGES = ("sigma-adapter", "lora", "full")
SHORT: dict[str, Any] = {
    "rank": 2,
    "steps_per_phase": 3,
    "batch_prompts": 2,
    "save_every": 2,
    "held_out": 0.25,
}


def trained(
    recording: Recording,
    folder: Path,
    storage: str,
    stop_at: Sequence[int] | None = None,
    **options: Any,
) -> NoiseAwareWeights:
    """Weights of a training; with `stop_at` it is interrupted after these steps, and resumed."""
    config = NoiseAwareTraining(**SHORT | {"storage": storage, "joint_steps": 4} | options)
    for stop in [*(stop_at or ()), None]:

        def watch(done: int, total: int, loss: float, stop: int | None = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        torch.manual_seed(torch.seed() % 1000)  # resuming must not depend on what came before
        try:
            return train(brightness_reward(), recording, folder, config, on_step=watch)
        except KeyboardInterrupt:
            continue
    raise AssertionError("unreachable")
