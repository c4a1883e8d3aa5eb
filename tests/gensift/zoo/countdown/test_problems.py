"""Wording and drawing of problems."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gensift.errors import ConfigError
from gensift.zoo.countdown.checker import solutions
from gensift.zoo.countdown.problems import (
    OPERATORS,
    Answers,
    Problem,
    draw_answers,
    parse_problem,
)


def texts_of(answers: Answers) -> list[str]:
    rows = zip(answers.numbers, answers.operators, answers.is_left_first, strict=True)
    texts = []
    for (a, b, c), (i, j), is_left_first in rows:
        o, p = OPERATORS[i], OPERATORS[j]
        texts.append(f"( {a} {o} {b} ) {p} {c}" if is_left_first else f"{a} {o} ( {b} {p} {c} )")
    return texts


def problem_of(numbers: np.ndarray, target: int) -> Problem:
    a, b, c = map(int, numbers)
    return Problem((a, b, c), int(target))


def test_numbers_are_kept_in_order() -> None:
    assert Problem((15, 3, 7), 36) == Problem((3, 7, 15), 36)
    assert Problem((15, 3, 7), 36).text == "use 3 7 15 to make 36"


@pytest.mark.parametrize(
    ("numbers", "target"), [((0, 1, 2), 3), ((1, 2, 21), 3), ((1, 2, 3), 0), ((1, 2, 3), 101)]
)
def test_what_is_out_of_range_is_refused(numbers: tuple[int, int, int], target: int) -> None:
    with pytest.raises(ConfigError, match=r"1 to 20 and a target of 1 to 100"):
        Problem(numbers, target)


@pytest.mark.parametrize(
    "text",
    [
        "use 3 7 15 to make 36",
        "use 15 3 7 to make 36",
        "  Use  7 15\t3 TO make\n36 ",
        "use 03 7 15 to make 36",
    ],
)
def test_odd_wordings_are_read(text: str) -> None:
    assert parse_problem(text) == Problem((3, 7, 15), 36)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "use 3 7 to make 36",
        "use 3 7 15 2 to make 36",
        "use 3, 7, 15 to make 36",
        "use 3 7 15 to make",
        "use 3 7 15 to make -6",
        "use 3 7 21 to make 36",
        "use 0 7 15 to make 36",
        "use 3 7 15 to make 101",
        "please use 3 7 15 to make 36",
        "use 3 7 15 to make 36.",
        "use ٣ 7 15 to make 36",
        "a red circle",
    ],
)
def test_anything_else_is_no_problem(text: str) -> None:
    assert parse_problem(text) is None


def test_drawn_answers_are_right() -> None:
    answers = draw_answers(400, np.random.default_rng(0))
    assert 120 < len(answers.targets) < 240
    rows = zip(answers.numbers, answers.targets, texts_of(answers), strict=True)
    for numbers, target, text in rows:
        assert text in solutions(problem_of(numbers, target))


def test_all_right_answers_of_a_problem_are_equally_likely() -> None:
    answers = draw_answers(4_000_000, np.random.default_rng(1))
    is_this = (np.sort(answers.numbers) == (2, 3, 9)).all(1) & (answers.targets == 15)
    counts = Counter(texts_of(answers.take(is_this)))
    wanted = solutions(Problem((2, 3, 9), 15))
    assert set(counts) == wanted
    expected = 4_000_000 / 20**3 / 9 / 2
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
