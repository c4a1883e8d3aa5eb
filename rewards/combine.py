"""Several rewards as one: rank sum and weighted z-score, among the candidates of one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from gensift.errors import ConfigError, RewardError
from rewards.protocol import Images, Reward, call_reward, to_tensor

Rule = Literal["z-score", "rank-sum"]


def rank_sum(scores: Mapping[str, Tensor]) -> Tensor:
    """Add up the ranks that each reward gives the candidates of one prompt.

    The worst has rank 0. Equal scores share the mean of their ranks, so that a coarse reward weighs
    as much as a fine one and the order of candidates does not matter. A candidate with a non-finite
    score in any reward gets -inf and takes no rank from others.

    Args:
        scores: per reward float `(candidates,)`.

    Returns:
        float32 `(candidates,)`.

    Raises:
        RewardError: no reward, or scores of different lengths.

    Source: the published TTSnap simulation, which breaks ties arbitrarily instead.
    """
    table = _stack(scores)
    is_valid = table.isfinite().all(0)
    total = torch.full(is_valid.shape, -torch.inf, dtype=torch.float64)
    total[is_valid] = sum(_ranks(row) for row in table[:, is_valid])
    return total.float()


def weighted_z_score(
    scores: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> Tensor:
    """Add up weighted z-scores, which put rewards of different units on one scale.

    Mean and population standard deviation are those of the candidates of one prompt; a reward that
    scores all alike adds 0. A candidate with a non-finite score in any reward gets -inf and is left
    out of both.

    Args:
        scores: per reward float `(candidates,)`.
        weights: per reward; 1 for those left out.

    Returns:
        float32 `(candidates,)`.

    Raises:
        RewardError: no reward, or scores of different lengths.
        ConfigError: a weight is not finite, or is for a reward that is not there.
    """
    table = _stack(scores)
    checked = _check_weights(weights or {}, scores)
    is_valid = table.isfinite().all(0)
    total = torch.full(is_valid.shape, -torch.inf, dtype=torch.float64)
    rows = zip(scores, table[:, is_valid], strict=True)
    total[is_valid] = sum(checked.get(name, 1.0) * _standardise(row) for name, row in rows)
    return total.float()


def _stack(scores: Mapping[str, Tensor]) -> Tensor:
    """float64 `(rewards, candidates)` on the CPU."""
    lengths = {name: tuple(values.shape) for name, values in scores.items()}
    if len(set(lengths.values())) != 1 or len(next(iter(lengths.values()))) != 1:
        raise RewardError(
            f"scores have the shapes {lengths}; give at least one reward, and the same number of "
            "candidates for each."
        )
    return torch.stack([values.detach().to("cpu", torch.float64) for values in scores.values()])


def _ranks(values: Tensor) -> Tensor:
    is_less = values[None, :] < values[:, None]
    is_equal = values[None, :] == values[:, None]
    return is_less.sum(1).double() + (is_equal.sum(1).double() - 1) / 2


def _standardise(values: Tensor) -> Tensor:
    # Equal scores are told apart by rounding of the mean alone, so compare them exactly.
    if not len(values) or values.max() == values.min():
        return torch.zeros_like(values)
    return (values - values.mean()) / values.std(correction=0)


def _check_weights(
    weights: Mapping[str, float], names: Mapping[str, object]
) -> Mapping[str, float]:
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ConfigError(
            f"weights name {', '.join(unknown)}, which is not combined here; "
            f"rewards: {', '.join(names)}."
        )
    broken = [name for name, weight in weights.items() if not math.isfinite(weight)]
    if broken:
        raise ConfigError(f"the weight of {', '.join(broken)} is not finite; give a number.")
    return weights


class CompositeReward:
    """Several rewards as one, combined among the pictures that share a prompt.

    Its score depends, unlike that of a single reward, on the other candidates of the batch: it
    ranks them and means nothing beyond. A prompt with a single picture scores 0.

    Attributes:
        parts: the rewards, by name.
        rule: "z-score" or "rank-sum".
        weights: per reward, for the z-score; 1 for those left out.
    """

    def __init__(
        self,
        parts: Mapping[str, Reward],
        weights: Mapping[str, float] | None = None,
        rule: Rule = "z-score",
    ) -> None:
        """Combine `parts`.

        Raises:
            ConfigError: no parts, an unknown rule, weights that do not fit the parts, or weights
                for the rank sum, which has none.
        """
        if not parts:
            raise ConfigError("CompositeReward got no parts; give at least one reward by name.")
        if rule not in get_args(Rule):
            raise ConfigError(f"rule is {rule!r}; allowed: {', '.join(get_args(Rule))}.")
        if weights and rule == "rank-sum":
            raise ConfigError(
                "rank-sum weighs all rewards alike; leave weights out, or use z-score."
            )
        self.parts = dict(parts)
        self.rule: Rule = rule
        self.weights = dict(_check_weights(weights or {}, self.parts))

    @property
    def name(self) -> str:
        """The rule and the parts, such as "rank-sum(clip-score, shapes-clip)"."""
        return f"{self.rule}({', '.join(self.parts)})"

    def scores(self, images: Images, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Scores of each part, float32 `(batch,)` on the CPU."""
        pictures = to_tensor(images, prompts)
        return {name: call_reward(part, pictures, prompts) for name, part in self.parts.items()}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Combine scores of candidates of one prompt, float `(candidates,)` per part."""
        if self.rule == "rank-sum":
            return rank_sum(scores)
        return weighted_z_score(scores, self.weights)

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score pictures against the others of the same prompt.

        Args:
            images: float `(batch, 3, height, width)` in [0, 1], or PIL pictures.
            prompts: one per picture; equal prompts make a group.

        Returns:
            float32 `(batch,)` on the CPU; -inf where any part is not finite.

        Raises:
            RewardError: bad pictures or prompts, or a part returns no such tensor.
        """
        scores = self.scores(images, prompts)
        combined = torch.empty(len(prompts))
        for prompt in dict.fromkeys(prompts):
            rows = torch.tensor([index for index, text in enumerate(prompts) if text == prompt])
            combined[rows] = self.combine({name: values[rows] for name, values in scores.items()})
        return combined
