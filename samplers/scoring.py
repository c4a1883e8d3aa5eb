"""Judging candidates: decode the latents, ask the rewards, combine their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from gensift.cost import Stopwatch
from gensift.errors import ConfigError
from rewards.combine import CompositeReward, rank_sum
from rewards.protocol import Reward, call_reward, reward_name, scorer_at

THUMBNAIL = 96
"""Longest side of a kept preview, in pixels."""

RewardSpec = Reward | Mapping[str, Reward] | None


@dataclass(frozen=True)
class Scores:
    """Scores of some rows.

    Attributes:
        by_reward: float32 `(rows,)` on the CPU, by name of the reward.
        thumbnails: one small picture per row, or empty.
    """

    by_reward: dict[str, Tensor]
    thumbnails: list[Image.Image] = field(default_factory=list)


class Decoder(Protocol):
    """What turns latents `(rows, ...)` into pictures `(rows, 3, height, width)` in [0, 1]."""

    @property
    def is_tiny(self) -> bool:
        """Whether it is cheaper than the decoding of finished samples, and counted apart."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Decode all of them at once."""
        ...


class Scorer:
    """Scores latents with one or several rewards, in batches of `max_images`.

    Several rewards are combined by rank sum among the living candidates of a prompt, as TTSnap
    does; a `CompositeReward` brings its own rule.

    Attributes:
        decodes: pictures decoded so far by the full VAE.
        preview_decodes: pictures decoded so far by a tiny decoder.
        reward_calls: pictures scored so far, per reward.
        stopwatch: seconds spent in "decode" and "reward".
    """

    def __init__(self, reward: RewardSpec, *, keep_previews: bool = False) -> None:
        self._parts = reward_parts(check_reward(reward))
        self._combine = _combination(reward)
        self._keep_previews = keep_previews
        self.decodes = 0
        self.preview_decodes = 0
        self.reward_calls = dict.fromkeys(self._parts, 0)
        self.stopwatch = Stopwatch()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards; none when rewards are off."""
        return tuple(self._parts)

    def score(
        self,
        decoder: Decoder,
        latents: Tensor,
        prompts: Sequence[str],
        max_images: int | None,
        on_image: Callable[[str, int], None] = lambda event, count: None,
        sigma: float | None = None,
    ) -> Scores:
        """Decode and score `latents` `(rows, ...)`, one prompt per row.

        With `sigma` they are early estimates, made at that noise level (flow scale, in [0, 1]), and
        noise-aware rewards judge them as such.
        """
        judges = {name: scorer_at(reward, sigma) for name, reward in self._parts.items()}
        scores: dict[str, list[Tensor]] = {name: [] for name in self._parts}
        thumbnails: list[Image.Image] = []
        done = 0
        while done < len(latents):
            with self.stopwatch.part("decode"):
                images = decode_what_fits(decoder, latents[done:], max_images)
            part, texts = latents[done : done + len(images)], prompts[done : done + len(images)]
            done += len(images)
            if decoder.is_tiny:
                self.preview_decodes += len(part)
            else:
                self.decodes += len(part)
            on_image("decode", len(part))
            for name, reward in judges.items():
                with self.stopwatch.part("reward"):
                    scores[name].append(call_reward(reward, images, texts))
                self.reward_calls[name] += len(part)
            on_image("reward", len(part))
            if self._keep_previews:
                thumbnails += [thumbnail(image) for image in images]
        return Scores({name: torch.cat(values) for name, values in scores.items()}, thumbnails)

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """One score per living candidate of one prompt, `(rows,)`; non-finite ones become -inf."""
        combined = self._combine(scores)
        return torch.where(torch.isfinite(combined), combined, -torch.inf)


def decode_what_fits(decoder: Decoder, latents: Tensor, most: int | None) -> Tensor:
    """Pictures of the leading latents `(rows, ...)`: at most `most`, fewer where memory runs out.

    Raises:
        OutOfMemoryError: not even one fits.
    """
    part = latents[: most or len(latents)]
    while True:
        try:
            return decoder.decode(part)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        torch.cuda.empty_cache()
        part = part[: len(part) // 2]


def check_reward(reward: RewardSpec) -> RewardSpec:
    """`reward` itself.

    Raises:
        ConfigError: it cannot be called, or is an empty mapping.
    """
    if isinstance(reward, CompositeReward) or reward is None:
        return reward
    parts = reward if isinstance(reward, Mapping) else {"reward": reward}
    if not parts:
        raise ConfigError("The mapping of rewards is empty; give at least one reward, or None.")
    for name, part in parts.items():
        if isinstance(part, str):
            raise ConfigError(f"{name} is the text {part!r}; give gensift.load_reward({part!r}).")
        if not callable(part) or isinstance(part, CompositeReward):
            raise ConfigError(
                f"{name} is a {type(part).__name__}; give a function of pictures and prompts, or a "
                "mapping of names to such functions."
            )
    return reward


def reward_parts(reward: RewardSpec) -> dict[str, Reward]:
    """The single rewards by name; none when rewards are off."""
    if reward is None:
        return {}
    if isinstance(reward, CompositeReward):
        # Scored part by part, so that its rule sees all candidates of a prompt, not one batch.
        return dict(reward.parts)
    return dict(reward) if isinstance(reward, Mapping) else {reward_name(reward): reward}


def _combination(reward: RewardSpec) -> Callable[[Mapping[str, Tensor]], Tensor]:
    if isinstance(reward, CompositeReward):
        return reward.combine
    return _only if len(reward_parts(reward)) == 1 else rank_sum


def _only(scores: Mapping[str, Tensor]) -> Tensor:
    return next(iter(scores.values()))


def thumbnail(image: Tensor) -> Image.Image:
    """A small copy of a picture `(3, height, width)` in [0, 1]."""
    pixels: Any = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture
