"""Figures of Countdown answers, of a pipeline that answers what it is told to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from apps.training.evaluation import countdown_llada
from apps.training.evaluation.countdown_llada import answers, num_true_solutions
from gensift.zoo.countdown.problems import Problem

EASY, HARD = Problem((2, 3, 9), 15), Problem((3, 7, 15), 36)
TEXTS = {
    EASY.text: ["( 2 * 3 ) + 9", "9 + ( 3 * 2 )", "( 2 * 9 ) - 3", "2 + 3 + 9"],
    HARD.text: ["15 + 7 + 3", "15 + 7 + 3", "nonsense", "15 + 7 + 3"],
}


class Told:
    """Answers from a list, and the seeds it was given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.config: dict[str, str] = {}

    def set_progress_bar_config(self, **options: Any) -> None:
        pass

    def __call__(
        self, prompts: list[str], num_texts_per_prompt: int, generator: Any, **arguments: Any
    ) -> Any:
        self.seeds += [each.initial_seed() for each in generator]
        texts = [text for prompt in prompts for text in TEXTS[prompt][:num_texts_per_prompt]]
        return SimpleNamespace(texts=texts)


def test_answers_are_grouped_by_problem_and_checked() -> None:
    found = answers(Told(), [EASY, HARD], 4)
    assert found.texts == [TEXTS[EASY.text], TEXTS[HARD.text]]
    assert found.right.tolist() == [[True, True, True, False], [False] * 4]
    assert found.right.dtype == torch.bool
    # Easy: multisets {2 * 3 + 9 ( )}, again, {2 * 9 - 3 ( )}, {2 + 3 + 9}.
    assert found.diversity()["distinct_answers"] == 3.0
    assert found.diversity()["true_solutions"] == 1.0


def test_batches_do_not_change_the_seeds(monkeypatch: Any) -> None:
    whole, parts = Told(), Told()
    answers(whole, [EASY, HARD], 4)
    monkeypatch.setattr(countdown_llada, "_BATCH", 1)
    answers(parts, [EASY, HARD], 4)
    assert whole.seeds == parts.seeds and len(set(whole.seeds)) == 8


def test_true_solutions_are_right_and_counted_once() -> None:
    assert num_true_solutions(EASY, TEXTS[EASY.text]) == 2
    assert num_true_solutions(HARD, TEXTS[HARD.text]) == 0
