"""How many and which tokens a step commits, against the rules as they are published."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samplers.text.commit import CommitRule, Factor, Pace, Quota, Threshold, ThresholdOrQuota
from samplers.text.confidence import CONFIDENCES

WIDTH = 7


def pace(masks: int, steps: int, step: int, rows: int = 1) -> Pace:
    return Pace(*(torch.full((rows,), number) for number in (masks, steps, step)))


def confidences(seed: int, rows: int = 8) -> Tensor:
    """Two digits, so that there are ties; some positions are not eligible, one always is."""
    random = torch.Generator().manual_seed(seed)
    found = torch.randint(1, 101, (rows, WIDTH), generator=random) / 100
    found[torch.rand(rows, WIDTH, generator=random) < 0.3] = -torch.inf
    found[:, 2] = found[:, 2].clamp(min=0.05)
    return found


def ranked(row: list[float]) -> list[int]:
    eligible = [at for at in range(len(row)) if row[at] > -math.inf]
    return sorted(eligible, key=lambda at: (-row[at], at))


def by_quota(row: list[float], given: tuple[int, int, int]) -> set[int]:
    masks, steps, step = given
    count = masks // steps + (1 if step < masks % steps else 0)
    return set(ranked(row)[: max(1, count)])


def by_threshold(row: list[float], threshold: float) -> set[int]:
    sure = {at for at in ranked(row) if row[at] >= threshold}
    return sure | {ranked(row)[0]}


def by_factor(row: list[float], factor: float) -> set[int]:
    """Fast-dLLM: the first always; the n-th as long as it and all before it pass."""
    chosen = {ranked(row)[0]}
    for n, at in enumerate(ranked(row), start=1):
        if row[at] < 1 - factor / (n + 1) and n > 1:
            break
        if n == 1 and row[at] < 1 - factor / 2:
            break
        chosen.add(at)
    return chosen


def check(rule: CommitRule, wanted: Callable[[list[float]], set[int]], given: Pace | None) -> None:
    for seed in range(6):
        found = confidences(seed)
        chosen = rule.choose(found, given or pace(WIDTH, WIDTH, 0, len(found)))
        for row, values in enumerate(found.tolist()):
            committed = set(chosen[row].nonzero()[:, 0].tolist())
            assert committed == wanted(values) and committed


@pytest.mark.parametrize(
    "given", [(7, 7, 0), (7, 3, 0), (7, 3, 2), (7, 2, 1), (2, 5, 4), (7, 1, 0)]
)
def test_quota(given: tuple[int, int, int]) -> None:
    check(Quota(), lambda row: by_quota(row, given), pace(*given, rows=8))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_threshold(threshold: float) -> None:
    check(Threshold(threshold), lambda row: by_threshold(row, threshold), None)


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 1.0, 1.5, 3.0])
def test_factor(factor: float) -> None:
    check(Factor(factor), lambda row: by_factor(row, factor), None)


def test_factor_by_hand() -> None:
    """With factor 1 the bounds are 1/2, 2/3, 3/4, 4/5."""
    rows = torch.tensor([[0.95, 0.7, 0.8, 0.9], [0.95, 0.6, 0.9, 0.9], [0.4, 0.3, 0.2, 0.1]])
    assert Factor(1.0).choose(rows, pace(4, 4, 0, 3)).tolist() == [
        [True, False, True, True],  # 0.95, 0.9, 0.8 pass; 0.7 < 4/5
        [True, False, True, True],
        [True, False, False, False],
    ]


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("given", [(7, 7, 0), (7, 3, 0), (6, 2, 1)])
def test_threshold_or_quota(threshold: float, given: tuple[int, int, int]) -> None:
    """LLaDA2: those strictly above the threshold if they are enough, else the quota."""

    def wanted(row: list[float]) -> set[int]:
        masks, steps, step = given
        count = max(1, masks // steps + (1 if step < masks % steps else 0))
        sure = {at for at in ranked(row) if row[at] > threshold}
        return sure if len(sure) >= count else by_quota(row, given)

    check(ThresholdOrQuota(threshold), wanted, pace(*given, rows=8))


def test_the_two_thresholds_differ_in_equality() -> None:
    half = torch.tensor([[0.5, 0.9, 0.5]])
    assert Threshold(0.5).choose(half, pace(3, 3, 0)).tolist() == [[True, True, True]]
    assert ThresholdOrQuota(0.5).choose(half, pace(3, 3, 0)).tolist() == [[False, True, False]]


@pytest.mark.parametrize(
    "rule", [Quota(), Threshold(0.9), Factor(1.0), ThresholdOrQuota(0.9), Threshold(1.0)]
)
def test_one_is_committed_even_if_it_comes_last(rule: CommitRule) -> None:
    """What comes last has a hundred taken off its confidence."""
    found = torch.tensor([[-100.0, -99.5, -torch.inf], [-torch.inf, -99.9, 0.05]])
    assert rule.choose(found, pace(3, 3, 0, 2)).tolist() == [
        [False, True, False],
        [False, False, True],
    ]


# --- confidence -----------------------------------------------------------------------------------


def naive(name: str, logits: list[float], token: int, uniform: float) -> float:
    largest = max(logits)
    powers = [math.exp(logit - largest) for logit in logits]
    shares = [power / sum(powers) for power in powers]
    ordered = sorted(shares, reverse=True)
    return {
        "probability": shares[token],
        "margin": ordered[0] - ordered[1],
        "entropy": sum(share * math.log(share) for share in shares if share > 0),
        "random": uniform,
    }[name]


@pytest.mark.parametrize("name", CONFIDENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_confidence_is_its_formula(name: str, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(2, 5, 9, generator=random)).to(dtype)
    logits[..., 4] = -torch.inf
    tokens = torch.randint(0, 4, (2, 5), generator=random)
    uniforms = torch.rand(2, 5, generator=random, dtype=torch.float64)
    found = CONFIDENCES[name](logits, tokens, uniforms)
    assert found.dtype == torch.float32 and found.shape == (2, 5)
    for row in range(2):
        for at in range(5):
            wanted = naive(
                name, logits[row, at].tolist(), int(tokens[row, at]), float(uniforms[row, at])
            )
            assert float(found[row, at]) == pytest.approx(wanted, abs=1e-5)
    assert bool(found.isfinite().all())
