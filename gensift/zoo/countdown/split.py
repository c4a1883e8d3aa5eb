"""Which Countdown problems training never sees, and which of those choose or report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from gensift.zoo.countdown.checker import reachable_targets
from gensift.zoo.countdown.problems import MAX_NUMBER, Booleans, Integers, Problem

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

HELD_OUT_ONE_IN = 20
TEST_PROBLEMS = 500


def mix(numbers: Integers, targets: Integers) -> Hashes:
    """A 64-bit hash of problems that is the same everywhere and blind to the order of numbers.

    Args:
        numbers: int64 `(count, 3)`.
        targets: int64 `(count,)`.

    Source: the finaliser of SplitMix64, Steele et al., "Fast Splittable Pseudorandom Number
    Generators" (OOPSLA 2014).
    """
    low, middle, high = np.sort(numbers, axis=1).astype(np.uint64).T
    bits: Hashes = (low << 24) | (middle << 16) | (high << 8) | targets.astype(np.uint64)
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def is_held_out(numbers: Integers, targets: Integers) -> Booleans:
    """Which problems training never sees; arguments as of `mix`."""
    is_out: Booleans = mix(numbers, targets) % HELD_OUT_ONE_IN == 0
    return is_out


def all_problems() -> list[Problem]:
    """Every problem that has an answer, sorted."""
    triples = combinations_with_replacement(range(1, MAX_NUMBER + 1), 3)
    return [
        Problem(numbers, target)
        for numbers in triples
        for target in sorted(reachable_targets(numbers))
    ]


@lru_cache(maxsize=1)
def held_out_problems() -> tuple[Problem, ...]:
    """Every problem that has an answer and that training never sees, sorted."""
    problems = all_problems()
    is_out = is_held_out(*_arrays(problems))
    return tuple(problem for problem, out in zip(problems, is_out, strict=True) if out)


def test_problems() -> tuple[Problem, ...]:
    """The held-out problems that figures are reported on, sorted."""
    return tuple(sorted(_by_hash()[:TEST_PROBLEMS], key=_sort_key))


def validation_problems() -> tuple[Problem, ...]:
    """The other held-out problems, sorted: settings are chosen on them."""
    return tuple(sorted(_by_hash()[TEST_PROBLEMS:], key=_sort_key))


def _by_hash() -> list[Problem]:
    """Held-out problems in an order that has nothing to do with what they ask."""
    problems = held_out_problems()
    order = np.argsort(mix(*_arrays(problems)))
    return [problems[index] for index in order]


def _sort_key(problem: Problem) -> tuple[tuple[int, ...], int]:
    return problem.numbers, problem.target


def _arrays(problems: Sequence[Problem]) -> tuple[Integers, Integers]:
    numbers = np.array([problem.numbers for problem in problems])
    return numbers, np.array([problem.target for problem in problems])
