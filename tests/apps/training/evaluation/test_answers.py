"""pass@k, intervals and diversity against their definitions."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from apps.training.evaluation.answers import (
    Interval,
    jaccard_distance,
    mean_interval,
    num_distinct,
    paired_interval,
    pass_at_k,
)
from gensift.errors import ConfigError

RIGHT = torch.tensor(
    [
        [False, True, False, False, True, False],
        [False, False, False, False, False, False],
        [True, True, True, True, True, True],
        [False, False, False, False, False, True],
    ]
)


@pytest.mark.parametrize("k", range(1, 7))
def test_unbiased_is_the_mean_over_all_subsets(k: int) -> None:
    subsets = [RIGHT[:, list(chosen)].any(1) for chosen in combinations(range(6), k)]
    expected = torch.stack(subsets).double().mean(0)
    found = pass_at_k(RIGHT, k, kind="unbiased")
    assert found.dtype == torch.float64
    assert torch.allclose(found, expected, atol=1e-14)


def test_prefix_looks_at_the_first_samples_only() -> None:
    assert [pass_at_k(RIGHT, k, kind="prefix").tolist() for k in (1, 2, 5, 6)] == [
        [0, 0, 1, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 0],
        [1, 0, 1, 1],
    ]


def test_both_agree_when_all_samples_are_drawn() -> None:
    assert torch.equal(pass_at_k(RIGHT, 6), pass_at_k(RIGHT, 6, kind="prefix"))


def test_pass_at_1_is_the_share_of_right_samples() -> None:
    assert torch.allclose(pass_at_k(RIGHT, 1), RIGHT.double().mean(1))


def test_many_samples_do_not_overflow() -> None:
    right = torch.zeros(1, 5000, dtype=torch.bool)
    right[0, :3] = True
    expected = 1 - math.comb(4997, 2000) / math.comb(5000, 2000)
    assert float(pass_at_k(right, 2000)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("k", "kind", "message"),
    [(0, "prefix", "`k` is 0"), (7, "unbiased", "`k` is 7"), (1, "all", "`kind` is 'all'")],
)
def test_bad_arguments_are_refused(k: int, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pass_at_k(RIGHT, k, kind=kind)  # type: ignore[arg-type]


def test_the_interval_of_known_values() -> None:
    # Mean 3, standard deviation sqrt(2.5), and 2.776 is the 97.5 % point of t with 4 degrees.
    found = mean_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert found.mean == 3.0
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(2000, 100, generator=generator) < 0.3).double()
    found = [mean_interval(row) for row in draws]
    covered = sum(interval.low <= 0.3 <= interval.high for interval in found) / len(found)
    assert 0.93 < covered < 0.965


def test_pairs_take_out_what_problems_have_in_common() -> None:
    difficulty = torch.linspace(0, 1, 50)
    found = paired_interval(difficulty + 0.1, difficulty)
    assert found.low == pytest.approx(0.1, abs=1e-6)
    assert found.high == pytest.approx(0.1, abs=1e-6)
    assert paired_interval(difficulty, difficulty) == Interval(0.0, 0.0, 0.0)


def test_one_problem_tells_no_interval() -> None:
    found = mean_interval(torch.tensor([0.5]))
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)


def test_other_problems_cannot_be_paired() -> None:
    with pytest.raises(ConfigError, match=r"shapes \(3,\) and \(2,\) cannot be paired"):
        paired_interval(torch.zeros(3), torch.zeros(2))


def test_distinct_texts() -> None:
    assert num_distinct(["a", "b", "a"]) == 2
    assert num_distinct([]) == 0


@pytest.mark.parametrize(
    ("texts", "distance"),
    [
        (["a b c", "c b a"], 0.0),
        (["a b", "c d"], 1.0),
        (["a a b", "a b b"], 0.5),  # two in common (a, b) of four (a, a, b, b)
        (["a", "a", "b"], 2 / 3),
        (["a b", ""], 1.0),
        (["", ""], 0.0),
        (["a"], 0.0),
        ([], 0.0),
    ],
)
def test_jaccard_distances_by_hand(texts: list[str], distance: float) -> None:
    assert jaccard_distance(texts) == pytest.approx(distance)


def test_what_a_token_is_can_be_said() -> None:
    assert jaccard_distance(["ab", "ba"]) == 1.0
    assert jaccard_distance(["ab", "ba"], tokenize=list) == 0.0
