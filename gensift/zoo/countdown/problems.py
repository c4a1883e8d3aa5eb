"""Countdown problems: their wording, reading them, and drawing answers to train on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensift.errors import ConfigError

MAX_NUMBER = 20
"""Given numbers are 1 to this."""
MAX_RESULT = 100
"""Results, intermediate and final, are 1 to this."""
OPERATORS = ("+", "-", "*")
PROMPT_TOKENS = 7
ANSWER_TOKENS = 7
"""`( a o b ) o c` or `a o ( b o c )`."""

Integers = np.ndarray[Any, np.dtype[np.int64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Problem:
    """Make `target` out of three numbers, each used exactly once.

    Attributes:
        numbers: 1 to 20; kept in ascending order, in whatever order they are given.
        target: 1 to 100.

    Raises:
        ConfigError: a number or the target is out of range.
    """

    numbers: tuple[int, int, int]
    target: int

    def __post_init__(self) -> None:
        if not is_in_range(self.numbers, self.target):
            raise ConfigError(
                f"numbers are {self.numbers} and the target is {self.target}; a Countdown problem "
                f"has three numbers of 1 to {MAX_NUMBER} and a target of 1 to {MAX_RESULT}."
            )
        object.__setattr__(self, "numbers", tuple(sorted(self.numbers)))

    @property
    def text(self) -> str:
        """The wording: "use 3 7 15 to make 36"."""
        return f"use {' '.join(map(str, self.numbers))} to make {self.target}"


def is_in_range(numbers: tuple[int, ...], target: int) -> bool:
    """Whether these are three numbers and a target such as problems have."""
    are_numbers = len(numbers) == 3 and all(1 <= number <= MAX_NUMBER for number in numbers)
    return are_numbers and 1 <= target <= MAX_RESULT


_WORDING = re.compile(r"use (\d+) (\d+) (\d+) to make (\d+)", re.ASCII)


def parse_problem(text: str) -> Problem | None:
    """Read a prompt; None when it is no Countdown problem.

    Numbers may come in any order; blanks and upper case do not matter.
    """
    match = _WORDING.fullmatch(" ".join(text.lower().split()))
    if match is None:
        return None
    first, second, third, target = map(int, match.groups())
    numbers = (first, second, third)
    return Problem(numbers, target) if is_in_range(numbers, target) else None


@dataclass(frozen=True)
class Answers:
    """Answers drawn at random, and with their value as target the problems that they solve.

    Attributes:
        numbers: int64 `(count, 3)`, in the order in which the answer uses them.
        operators: int64 `(count, 2)`, indices into `OPERATORS` from left to right.
        is_left_first: bool `(count,)`, whether the parentheses stand around the first two numbers.
        targets: int64 `(count,)`, what the answers come to.
    """

    numbers: Integers
    operators: Integers
    is_left_first: Booleans
    targets: Integers

    def take(self, rows: Any) -> Answers:
        """The answers at `rows`, an index array or slice."""
        return Answers(
            self.numbers[rows], self.operators[rows], self.is_left_first[rows], self.targets[rows]
        )


def draw_answers(tries: int, rng: np.random.Generator) -> Answers:
    """Draw numbers, operators and parentheses uniformly; the valid ones of `tries`, about half.

    All right answers of one problem are equally likely.
    """
    numbers = rng.integers(1, MAX_NUMBER + 1, (tries, 3))
    operators = rng.integers(len(OPERATORS), size=(tries, 2))
    is_left_first = rng.random(tries) < 0.5
    a, b, c = numbers.T
    first, second = operators.T
    inner = np.where(is_left_first, _apply(first, a, b), _apply(second, b, c))
    targets = np.where(is_left_first, _apply(second, inner, c), _apply(first, a, inner))
    is_valid = (np.minimum(inner, targets) >= 1) & (np.maximum(inner, targets) <= MAX_RESULT)
    return Answers(numbers, operators, is_left_first, targets).take(is_valid)


def _apply(operators: Integers, left: Integers, right: Integers) -> Integers:
    return np.choose(operators, (left + right, left - right, left * right))
