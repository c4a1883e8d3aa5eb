"""GenEval-mini: how often pictures fulfil held-out prompts, by category, judged by the verifier.

Categories follow GenEval (Ghosh et al. 2023), scaled to the Shapes world; the sixth holds
combinations that training never saw in any wording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gensift.zoo.shapes.grammar import Meaning
from gensift.zoo.shapes.split import held_out_meanings, is_held_out_combination

Category = Literal[
    "single", "count", "two objects", "position", "colour attribution", "held-out combinations"
]
CATEGORIES: tuple[Category, ...] = get_args(Category)


def category(meaning: Meaning) -> Category:
    """The category of a held-out prompt.

    Two objects that share a colour or a shape test presence; two that share neither test that each
    colour goes to its own shape.
    """
    if is_held_out_combination(meaning):
        return "held-out combinations"
    if meaning.second is None:
        return "single" if meaning.count == 1 else "count"
    if meaning.relation != "and":
        return "position"
    shares = any(a == b for a, b in zip(meaning.first, meaning.second, strict=True))
    return "two objects" if shares else "colour attribution"


def prompts_of(name: Category, most: int | None = None) -> list[Meaning]:
    """Held-out prompts of a category in a fixed shuffled order, at most `most`."""
    chosen = [meaning for meaning in held_out_meanings() if category(meaning) == name]
    return sorted(chosen, key=_shuffle_key)[:most]


def _shuffle_key(meaning: Meaning) -> bytes:
    return hashlib.blake2b(f"geneval {meaning}".encode(), digest_size=8).digest()


def benchmark(most_per_category: int) -> list[Meaning]:
    """The first held-out prompts of every category; small categories give what they have."""
    return [meaning for name in CATEGORIES for meaning in prompts_of(name, most_per_category)]


@dataclass(frozen=True)
class GenEvalScore:
    """Accuracy in [0, 1].

    Attributes:
        by_category: mean over the prompts of each category.
        overall: mean of the categories, as in GenEval.
        low, high: 95 % bootstrap interval of `overall`, prompts resampled within categories.
    """

    by_category: dict[str, float]
    overall: float
    low: float
    high: float


def score(correct: Mapping[Meaning, Sequence[float]], draws: int = 2000) -> GenEvalScore:
    """Aggregate verdicts (1 right, 0 wrong; several samples per prompt are averaged)."""
    means: dict[str, list[float]] = {}
    for meaning, values in correct.items():
        means.setdefault(category(meaning), []).append(float(np.mean(values)))
    by_category: dict[str, float] = {
        name: float(np.mean(means[name])) for name in CATEGORIES if name in means
    }
    rng = np.random.default_rng(0)
    resampled = np.stack(
        [rng.choice(values, size=(draws, len(values))).mean(1) for values in means.values()]
    ).mean(0)
    low, high = np.quantile(resampled, [0.025, 0.975])
    overall = float(np.mean(list(by_category.values())))
    return GenEvalScore(by_category, overall, float(low), float(high))
