"""What solves a problem."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import pytest

from gensift.zoo.countdown.checker import is_right, reachable_targets, solutions
from gensift.zoo.countdown.expressions import canonical
from gensift.zoo.countdown.problems import Problem
from gensift.zoo.countdown.split import held_out_problems

PROBLEM = Problem((3, 7, 15), 36)


def by_fractions(problem: Problem) -> set[str]:
    """All right answers, found by another program: strings first, arithmetic by the interpreter."""
    found = set()
    for order in permutations(map(str, problem.numbers)):
        for operators in (o + p for o in "+-*" for p in "+-*"):
            (a, b, c), (o, p) = order, operators
            for text, part in (
                (f"( {a} {o} {b} ) {p} {c}", f"{a}{o}{b}"),
                (f"{a} {o} ( {b} {p} {c} )", f"{b}{p}{c}"),
            ):
                inner, value = Fraction(eval(part)), Fraction(eval(text))
                if value == problem.target and 1 <= inner <= 100:
                    found.add(text)
    return found


@pytest.mark.parametrize(
    "text",
    ["( 15 - 3 ) * 3", "(15-3)*3", " 3*(15  - 3)", "3 * (15 - 3)", "((15-3))*(3)"],
)
def test_right_answers(text: str) -> None:
    assert is_right(Problem((3, 3, 15), 36), text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("( 15 - 3 ) * 3", "uses 3 twice"),
        ("3 * 7 + 14 + 1", "other numbers"),
        ("3 * 7 + 15 + 0", "one number too many"),
        ("( 3 * 7 ) + 14", "wrong value, wrong number"),
        ("21 + 15", "a number too few"),
        ("36", "no operation"),
        ("( 3 * 7 ) - 15", "another target"),
        ("( 3 * 7 ) + 15 = 36", "no expression"),
        ("", "nothing"),
    ],
)
def test_wrong_answers(text: str, why: str) -> None:
    assert is_right(PROBLEM, "( 3 * 7 ) + 15")
    assert not is_right(PROBLEM, text), why


@pytest.mark.parametrize(
    ("numbers", "target", "text"),
    [
        ((2, 5, 9), 6, "( 2 - 5 ) + 9"),  # passes through -3
        ((2, 5, 5), 2, "( 5 - 5 ) + 2"),  # passes through 0
        ((10, 11, 20), 90, "10 * 11 - 20"),  # passes through 110
    ],
)
def test_results_on_the_way_must_be_in_range_too(
    numbers: tuple[int, int, int], target: int, text: str
) -> None:
    assert not is_right(Problem(numbers, target), text)


def test_precedence_decides_without_parentheses() -> None:
    assert is_right(PROBLEM, "15 + 3 * 7")
    assert not is_right(PROBLEM, "( 15 + 3 ) * 7")


@pytest.mark.parametrize("problem", held_out_problems()[::25])
def test_solutions_are_those_of_another_program(problem: Problem) -> None:
    found = solutions(problem)
    assert found and found == by_fractions(problem)
    assert all(is_right(problem, text) and len(text.split()) == 7 for text in found)


def test_targets_are_those_that_have_a_solution() -> None:
    reachable = reachable_targets((2, 3, 9))
    for target in range(1, 101):
        assert (target in reachable) == bool(by_fractions(Problem((2, 3, 9), target)))


def test_a_problem_without_solution_has_none() -> None:
    assert solutions(Problem((1, 1, 1), 100)) == set()


def test_true_solutions_of_a_problem_by_hand() -> None:
    found = {canonical(text) for text in solutions(Problem((2, 3, 9), 15))}
    assert found == {"( 2 * 3 ) + 9", "( 2 * 9 ) - 3"}
