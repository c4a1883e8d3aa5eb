"""A reward that judges early estimates by weights made for their noise level."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gensift.errors import ConfigError
from rewards.noise_aware.weights import NoiseAwareWeights
from rewards.protocol import Images, Reward, reward_name


class NoiseAwareReward:
    """The original reward for finished pictures; for early estimates one that knows their noise.

    Calling it judges finished pictures by the original reward. `at_sigma(sigma)` judges x0
    estimates made at that noise level, and predicts what the original reward will say of the
    finished picture; outside the trained range the original reward answers.

    Source: TTSnap (arXiv 2511.22242); one adapter conditioned on sigma instead of separate weights
    per step is ours.

    Attributes:
        base: the original reward.
        weights: changes of its network, as a function of sigma.
        name: name in results, that of the original.
    """

    def __init__(self, base: Any, weights: NoiseAwareWeights) -> None:
        """Wrap `base`, a reward with a network `model` and a switch `differentiable`.

        Raises:
            ConfigError: `base` has no such network, or the weights do not belong to it.
        """
        check_base(base)
        self.base = base
        self.name = reward_name(base)
        self.weights = weights.eval()
        own = dict(base.model.named_parameters())
        _check_fit(weights, own, self.name)
        self.weights.to(next(iter(own.values())).device)
        self._latest: tuple[Any, dict[str, Tensor]] | None = None

    @property
    def model(self) -> nn.Module:
        """Network of the original reward."""
        model: nn.Module = self.base.model
        return model

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Judge finished pictures; see `rewards.protocol.Reward`."""
        scores: Tensor = self.base(images, prompts)
        return scores

    def at_sigma(self, sigma: float) -> Reward:
        """The reward for estimates of clean pictures that were made at noise level `sigma`.

        Args:
            sigma: on the flow scale: 1 is pure noise, 0 a finished picture.
        """
        if not self.weights.covers(sigma):
            base: Reward = self.base
            return base
        scorer = Scorer(self.base)

        def predict(images: Images, prompts: Sequence[str], /) -> Tensor:
            with torch.no_grad():
                scores: Tensor = scorer(images, prompts, self._weights_at(sigma, scorer))
            return scores

        predict.__name__ = self.name
        return predict

    def _weights_at(self, sigma: float, scorer: Scorer) -> dict[str, Tensor]:
        # A checkpoint asks for one noise level many times over, and the merge costs a little.
        own = scorer.parameters_by_name
        # Networks move, too.
        place = next(iter(own.values()))
        key = sigma, place.device, place.dtype
        if self._latest is None or self._latest[0] != key:
            self._latest = key, self.weights.applied(own, sigma)
        return self._latest[1]


class Scorer(nn.Module):
    """A reward called with other weights than its network's own, which stay untouched."""

    def __init__(self, reward: Any, *, differentiable: bool = False) -> None:
        super().__init__()
        # A shallow copy shares network and cached prompts, but may let gradients through.
        self._reward = copy.copy(reward)
        self._reward.differentiable = differentiable
        self.network: nn.Module = reward.model

    @property
    def parameters_by_name(self) -> dict[str, Tensor]:
        """The network's own weights, detached: training others must leave no gradients here."""
        return {name: value.detach() for name, value in self.network.named_parameters()}

    def forward(
        self,
        images: Images,
        prompts: Sequence[str],
        weights: dict[str, Tensor] | None = None,
        *,
        each: bool = False,
    ) -> Tensor:
        """Scores float32 `(batch,)`, with `weights` in place of those of the same names.

        With `each`, every picture against every prompt, `(images, prompts)`; for rewards with
        `score_each`.
        """
        if weights is None:
            ask = self._reward.score_each if each else self._reward
            plain: Tensor = ask(images, prompts)
            return plain
        # Prompts are encoded without noise, and kept: not by weights that are here for one call.
        if hasattr(self._reward, "encode_prompts"):
            self._reward.encode_prompts(prompts)
        weights = self.parameters_by_name | weights
        return self._called_with(
            {f"network.{name}": w for name, w in weights.items()}, images, prompts, each
        )

    def _called_with(
        self, weights: dict[str, Tensor], images: Images, prompts: Sequence[str], each: bool
    ) -> Tensor:
        scores: Tensor = functional_call(self, weights, (images, prompts), {"each": each})
        return scores


def _check_fit(weights: NoiseAwareWeights, own: dict[str, Tensor], owner: str) -> None:
    for name, shape in weights.shapes().items():
        if name not in own:
            raise ConfigError(
                f"The noise-aware weights change {name!r}, which {owner!r} does not have; give "
                "those of this very model."
            )
        if own[name].shape != shape:
            raise ConfigError(
                f"The noise-aware weights change {name!r} of shape {tuple(shape)}, but {owner!r} "
                f"has {tuple(own[name].shape)}; give those of this very model."
            )


def check_base(reward: Any) -> None:
    """Refuse rewards that cannot be made noise-aware.

    Raises:
        ConfigError: it has no network, or its scores are not differentiable.
    """
    if not isinstance(getattr(reward, "model", None), nn.Module) or not hasattr(
        reward, "differentiable"
    ):
        raise ConfigError(
            f"{reward_name(reward)!r} has no network to train; give clip-score, pickscore, hpsv2, "
            "hpsv2.1, imagereward, shapes-clip, or a reward with `model` and `differentiable`."
        )
