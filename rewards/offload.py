"""Rewards that wait on the CPU and move to their device only while they judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gensift.errors import ConfigError
from rewards.combine import CompositeReward
from rewards.protocol import Images, Reward, is_noise_aware, reward_name

_REST = "cpu"


def offload_reward(reward: Reward, device: str) -> Reward:
    """`reward`, whose networks lie on the CPU between calls and on `device` during one.

    Networks are found in the attributes of the reward, or the reward is one. A reward without any
    is returned as it is. Parts of a `CompositeReward` move one after another.

    Args:
        reward: loaded on the CPU.
        device: where it judges.

    Raises:
        ConfigError: it lets gradients through, and a moved network could not pass them on.
    """
    if isinstance(reward, CompositeReward):
        parts = {name: offload_reward(part, device) for name, part in reward.parts.items()}
        return CompositeReward(parts, reward.weights, reward.rule)
    if getattr(reward, "differentiable", False):
        raise ConfigError(
            f"Reward {reward_name(reward)!r} is differentiable and cannot be moved between a call "
            "and its gradient; leave out one of differentiable and offload."
        )
    modules = reward_modules(reward)
    if not modules:
        return reward
    kind = OffloadedNoiseAwareReward if is_noise_aware(reward) else OffloadedReward
    return kind(reward, modules, device)


def reward_modules(reward: Any) -> list[nn.Module]:
    """The networks that a reward computes with."""
    if isinstance(reward, nn.Module):
        return [reward]
    found = [
        value for value in getattr(reward, "__dict__", {}).values() if isinstance(value, nn.Module)
    ]
    # That of a noise-aware reward belongs to its base.
    network = getattr(reward, "model", None)
    if isinstance(network, nn.Module) and all(network is not value for value in found):
        found.append(network)
    return found


class OffloadedReward:
    """See `offload_reward`."""

    def __init__(self, reward: Reward, modules: Sequence[nn.Module], device: str) -> None:
        """Move `modules` to the CPU."""
        self._reward = reward
        self._modules = list(modules)
        self._device = device
        self._move(_REST)

    @property
    def name(self) -> str:
        """That of the reward."""
        return reward_name(self._reward)

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score pictures on the device; see the reward."""
        with self._awake():
            return self._reward(images, prompts)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        try:
            self._move(self._device)
            yield
        finally:
            # Also when memory runs out half-way. Torch keeps the freed memory for the denoiser.
            self._move(_REST)

    def _move(self, device: str) -> None:
        for module in self._modules:
            module.to(device)


class OffloadedNoiseAwareReward(OffloadedReward):
    """The same for a reward that also judges early estimates."""

    def at_sigma(self, sigma: float) -> Reward:
        """The scorer of estimates at `sigma`, which shares and moves the same networks."""
        scorer: Reward = self._reward.at_sigma(sigma)  # type: ignore[attr-defined]
        return OffloadedReward(scorer, self._modules, self._device)
