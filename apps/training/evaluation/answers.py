"""Figures of sampled answers: pass@k with intervals over problems, and how they differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from gensift.errors import ConfigError

PassKind = Literal["prefix", "unbiased"]


def pass_at_k(right: Tensor, k: int, kind: PassKind = "unbiased") -> Tensor:
    """Per problem, the chance that at least one of `k` samples is right.

    "unbiased" takes the mean over all choices of `k` of the samples, 1 - C(n - c, k) / C(n, k),
    which needs samples drawn independently of each other. "prefix" looks at the first `k`: so it
    holds for samplers, too, whose rows know of the rows before them.

    Args:
        right: bool `(problems, samples)`.
        k: 1 to the number of samples.
        kind: "unbiased" or "prefix".

    Returns:
        float64 `(problems,)` in [0, 1]; its mean is the figure.

    Raises:
        ConfigError: an argument is out of range.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374),
    eq. 1, as a product of fractions.
    """
    if right.ndim != 2 or not 1 <= k <= right.shape[1]:
        raise ConfigError(
            f"`k` is {k} and `right` has shape {tuple(right.shape)}; give (problems, samples) and "
            "1 to that many samples."
        )
    if kind not in ("prefix", "unbiased"):
        raise ConfigError(f"`kind` is {kind!r}; allowed: prefix, unbiased.")
    if kind == "prefix":
        return right[:, :k].bool().any(1).double()
    drawn = torch.arange(k, dtype=torch.float64)
    wrong = (~right.bool()).sum(1).cpu()
    # The i-th drawn sample is wrong with probability (n - c - i) / (n - i).
    return 1 - ((wrong[:, None] - drawn).clamp(min=0) / (right.shape[1] - drawn)).prod(1)


@dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % t-interval, NaN with fewer than two problems."""

    mean: float
    low: float
    high: float


def mean_interval(values: Tensor) -> Interval:
    """Mean of `values` `(problems,)`, as if these were drawn from all problems of the kind."""
    values = values.double()
    count = len(values)
    mean = float(values.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, count - 1)) * float(values.std()) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def paired_interval(first: Tensor, second: Tensor) -> Interval:
    """Mean of `first` - `second`, both `(problems,)` of the same problems.

    Raises:
        ConfigError: they are of different shapes.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ConfigError(
            f"Values of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be paired; "
            "give one per problem, of the same problems."
        )
    return mean_interval(first.double() - second.double())


def num_distinct(texts: Iterable[str]) -> int:
    """How many different texts there are."""
    return len(set(texts))


def jaccard_distance(
    texts: Sequence[str], tokenize: Callable[[str], Iterable[str]] = str.split
) -> float:
    """Mean over all pairs of texts of one minus the overlap of their multisets of tokens.

    0 for equal multisets, 1 for texts without a common token; 0 with fewer than two texts.
    """
    bags = [Counter(tokenize(text)) for text in texts]
    distances = [_distance(first, second) for first, second in combinations(bags, 2)]
    return sum(distances) / len(distances) if distances else 0.0


def _distance(first: Counter[str], second: Counter[str]) -> float:
    union = (first | second).total()
    return 1 - (first & second).total() / union if union else 0.0
