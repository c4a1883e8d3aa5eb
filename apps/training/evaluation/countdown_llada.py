"""Figures of `countdown-llada`: how often, and in how many ways, it solves held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import trange

from apps.training.evaluation.answers import (
    jaccard_distance,
    mean_interval,
    num_distinct,
    pass_at_k,
)
from gensift.pipelines.loading import call_defaults, load_pipeline
from gensift.protocols import JsonObject, Pipeline
from gensift.randomness import candidate_seeds, make_generators
from gensift.zoo.countdown.checker import is_right
from gensift.zoo.countdown.expressions import canonical
from gensift.zoo.countdown.problems import Problem
from gensift.zoo.countdown.split import test_problems

SAMPLES = 16
_BATCH = 50


def evaluate() -> JsonObject:
    """Figures of the embedded `countdown-llada`: 16 samples and the greedy answer per problem."""
    pipe: Pipeline = load_pipeline("countdown-llada")
    problems = test_problems()
    sampled = answers(pipe, problems, SAMPLES)
    greedy = answers(pipe, problems, 1, temperature=0.0)
    first = mean_interval(pass_at_k(sampled.right, 1))
    return {
        "problems": len(problems),
        "samples_per_problem": SAMPLES,
        **{f"pass@{k}": float(pass_at_k(sampled.right, k).mean()) for k in (1, 4, 16)},
        "pass@1_interval_95": [first.low, first.high],
        "greedy": float(pass_at_k(greedy.right, 1).mean()),
        **sampled.diversity(),
    }


@dataclass(frozen=True)
class Answers:
    """Answers to problems, and which of them are right.

    Attributes:
        problems: what was asked.
        texts: per problem its samples.
        right: bool `(problems, samples)`.
    """

    problems: Sequence[Problem]
    texts: list[list[str]]
    right: Tensor

    def diversity(self) -> dict[str, float]:
        """Means over problems of how far their answers differ."""
        found: dict[str, Sequence[float]] = {
            "distinct_answers": [num_distinct(texts) for texts in self.texts],
            "true_solutions": [
                num_true_solutions(problem, texts)
                for problem, texts in zip(self.problems, self.texts, strict=True)
            ],
            "jaccard_distance": [jaccard_distance(texts) for texts in self.texts],
        }
        return {name: sum(values) / len(values) for name, values in found.items()}


def answers(
    pipe: Pipeline, problems: Sequence[Problem], samples: int, seed: int = 0, **overrides: object
) -> Answers:
    """Samples of a pipeline for each problem, by plain calls at its default settings."""
    pipe.set_progress_bar_config(disable=True)
    arguments = call_defaults(pipe) | overrides
    texts: list[str] = []
    for start in trange(0, len(problems), _BATCH, desc="answer", unit="batch"):
        batch = problems[start : start + _BATCH]
        rows = range(start, start + len(batch))
        seeds = [s for row in rows for s in candidate_seeds(seed, row, samples)]
        texts += pipe(
            [problem.text for problem in batch],
            num_texts_per_prompt=samples,
            generator=make_generators(seeds),
            **arguments,
        ).texts
    grouped = [texts[start : start + samples] for start in range(0, len(texts), samples)]
    return Answers(problems, grouped, check(problems, grouped))


def check(problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> Tensor:
    """Which answers are right, bool `(problems, samples)`."""
    pairs = zip(problems, texts, strict=True)
    return torch.tensor([[is_right(problem, text) for text in own] for problem, own in pairs])


def num_true_solutions(problem: Problem, texts: Sequence[str]) -> int:
    """Right answers among `texts`, those counted once that are equal but for order."""
    return num_distinct(canonical(text) for text in texts if is_right(problem, text))
