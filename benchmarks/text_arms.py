"""Settings of text decoding that are compared on Countdown, and their results on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.training.evaluation.countdown_llada import Answers, check
from gensift.files import write_atomically
from gensift.randomness import candidate_seeds
from gensift.zoo.countdown.problems import Problem
from samplers.text.odd import ODD

SAMPLES = 16
PROBLEMS_PER_CALL = 64
PLAIN = {"confidence": "probability"}
"""What arms are unless they say otherwise, whatever the sampler's own defaults."""


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
        return ODD(num_candidates=num_candidates, alpha=self.alpha, **(PLAIN | self.options))


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
    texts = json.loads(file.read_bytes())
    return Answers(problems, texts, check(problems, texts))


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
