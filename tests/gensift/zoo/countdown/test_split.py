"""What training may see."""

from __future__ import annotations

import hashlib

import numpy as np

from apps.training.zoo.countdown_llada import draw_training_answers
from gensift.zoo.countdown import split
from gensift.zoo.countdown.problems import Problem
from gensift.zoo.countdown.split import (
    all_problems,
    held_out_problems,
    is_held_out,
    mix,
    validation_problems,
)


def test_the_order_of_numbers_does_not_matter() -> None:
    numbers = np.array([[3, 7, 15], [15, 3, 7], [7, 15, 3], [3, 7, 16]])
    hashes = mix(numbers, np.full(4, 36))
    assert len(set(hashes[:3].tolist())) == 1 and hashes[3] != hashes[0]


def test_the_hash_is_that_of_plain_integers() -> None:
    def mixed(bits: int) -> int:
        bits = (bits + 0x9E3779B97F4A7C15) % 2**64
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        return bits ^ bits >> 31

    # First output of the published generator that starts at zero.
    assert mixed(0) == 0xE220A8397B1DCDAF
    packed = 3 << 24 | 7 << 16 | 15 << 8 | 36
    assert int(mix(np.array([[7, 3, 15]]), np.array([36]))[0]) == mixed(packed)


def test_validation_and_test_partition_what_is_held_out() -> None:
    validation, test = validation_problems(), split.test_problems()
    assert len(test) == 500 and len(validation) == 163
    assert not set(validation) & set(test)
    assert set(validation) | set(test) == set(held_out_problems())
    for problems in (validation, test, held_out_problems()):
        assert list(problems) == sorted(problems, key=lambda p: (p.numbers, p.target))


def test_about_one_in_twenty_is_held_out() -> None:
    assert len(all_problems()) == len(set(all_problems())) == 13_181
    assert abs(len(held_out_problems()) - 13_181 / 20) < 60


def test_training_never_draws_a_held_out_problem() -> None:
    held_out = set(held_out_problems())
    for seed in range(100):
        answers = draw_training_answers(np.random.default_rng(seed))
        assert not is_held_out(answers.numbers, answers.targets).any()
        for (a, b, c), target in zip(answers.numbers, answers.targets, strict=True):
            assert Problem((int(a), int(b), int(c)), int(target)) not in held_out


def test_the_split_never_moves() -> None:
    # Committed weights were trained on this split: a change of hashing would leak test problems.
    text = "\n".join(problem.text for problem in split.test_problems())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "d9ce6a7f3f179e3e"
