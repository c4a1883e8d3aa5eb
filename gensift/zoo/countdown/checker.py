"""Whether an answer solves a Countdown problem, and all answers that do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from gensift.zoo.answers import AnswerChecker
from gensift.zoo.countdown.expressions import APPLY, canonical, leaves, parse_expression, results
from gensift.zoo.countdown.problems import MAX_RESULT, OPERATORS, Problem

CHECKER = AnswerChecker(reward="countdown", normal_form=canonical)


def is_right(problem: Problem, text: str) -> bool:
    """Whether a text solves a problem.

    It does when it is an expression over + - * and parentheses, with or without blanks, that uses
    exactly the given numbers once each, all its results are 1 to 100, and the last is the target.
    """
    expression = parse_expression(text)
    if expression is None or tuple(sorted(leaves(expression))) != problem.numbers:
        return False
    values = list(results(expression))
    return all(1 <= value <= MAX_RESULT for value in values) and values[-1] == problem.target


def solutions(problem: Problem) -> set[str]:
    """All right answers in the form that the model writes, seven symbols between blanks."""
    return {text for text, value in _valid_answers(problem.numbers) if value == problem.target}


def reachable_targets(numbers: tuple[int, int, int]) -> set[int]:
    """All targets that these numbers can make."""
    return {value for _, value in _valid_answers(numbers)}


def _valid_answers(numbers: tuple[int, int, int]) -> Iterator[tuple[str, int]]:
    """Answers whose results are in range, and what they come to."""
    for (a, b, c), (o, p) in product(set(permutations(numbers)), product(OPERATORS, repeat=2)):
        inner = APPLY[o](a, b)
        yield from _if_valid(f"( {a} {o} {b} ) {p} {c}", inner, APPLY[p](inner, c))
        inner = APPLY[p](b, c)
        yield from _if_valid(f"{a} {o} ( {b} {p} {c} )", inner, APPLY[o](a, inner))


def _if_valid(text: str, inner: int, value: int) -> Iterator[tuple[str, int]]:
    if 1 <= inner <= MAX_RESULT and 1 <= value <= MAX_RESULT:
        yield text, value
