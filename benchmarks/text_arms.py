"""Settings of text decoding that are compared on Countdown, and their results on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensift.files import write_atomically
from gensift.randomness import candidate_seeds
from gensift.zoo.countdown.checker import is_right
from gensift.zoo.countdown.expressions import canonical
from gensift.zoo.countdown.problems import Problem
from samplers.text.odd import ODD

SAMPLES = 16
PROBLEMS_PER_CALL = 64


@dataclass(frozen=True)
class Arm:
    """One way to draw answers.

    Attributes:
        part: "grid", "strategy", "order" or "ablation".
        temperature: of the call.
        alpha: strength of diversity; 0 is plain decoding.
        options: of `ODD`, besides.
    """

    part: str
    temperature: float
    alpha: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells it from all others."""
        said = [f"{key}={value}" for key, value in self.options.items()]
        return " ".join([f"T={self.temperature:g}", f"alpha={self.alpha:g}", *said])

    def sampler(self, num_candidates: int = SAMPLES) -> ODD:
        """What draws."""
        return ODD(num_candidates=num_candidates, alpha=self.alpha, **self.options)


@dataclass(frozen=True)
class Answers:
    """What an arm drew.

    Attributes:
        texts: per problem its answers in the order of the rows.
        right: bool `(problems, samples)`.
    """

    texts: list[list[str]]
    right: Tensor

    @classmethod
    def of(cls, problems: Sequence[Problem], texts: list[list[str]]) -> Answers:
        """Check the answers."""
        right = [
            [is_right(problem, text) for text in own]
            for problem, own in zip(problems, texts, strict=True)
        ]
        return cls(texts, torch.tensor(right))

    def true_solutions(self) -> Tensor:
        """Different right answers per problem, up to order and brackets, float64 `(problems,)`."""
        counts = [
            len({canonical(text) for text, good in zip(own, right, strict=True) if good})
            for own, right in zip(self.texts, self.right.tolist(), strict=True)
        ]
        return torch.tensor(counts, dtype=torch.float64)

    def different(self) -> Tensor:
        """Different texts per problem, float64 `(problems,)`."""
        return torch.tensor([len(set(own)) for own in self.texts], dtype=torch.float64)


def answers_of(
    pipe: Any, arm: Arm, problems: Sequence[Problem], seed: int, folder: Path
) -> Answers:
    """Draw answers to all problems, or read them where that was done before."""
    slug = re.sub(r"[^a-z0-9.=-]+", "_", arm.name.lower())
    file = folder / f"{slug}-seed{seed}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        texts = draw(pipe, arm, problems, seed)
        write_atomically(file, json.dumps(texts).encode())
    return Answers.of(problems, json.loads(file.read_bytes()))


def draw(pipe: Any, arm: Arm, problems: Sequence[Problem], seed: int) -> list[list[str]]:
    """Answers to all problems; those of a problem do not depend on which others there are."""
    sampler = arm.sampler()
    texts: list[list[str]] = []
    for start in range(0, len(problems), PROBLEMS_PER_CALL):
        part = problems[start : start + PROBLEMS_PER_CALL]
        seeds = [candidate_seeds(seed, start + at, SAMPLES) for at in range(len(part))]
        prompts = [problem.text for problem in part]
        output = sampler(pipe, prompts, seeds=seeds, temperature=arm.temperature)
        texts += [list(result.samples) for result in output.results]
    return texts
