"""The steps of decoding against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gensift.pipelines.llada import sampling
from gensift.pipelines.llada.sampling import (
    RowStreams,
    end_rows,
    most_confident,
    probability_of,
    propose,
    quota,
    steps_of_span,
)
from gensift.randomness import make_generators

M, E, T = 1, 2, 3
"""Mask, end of sequence, end of turn; larger numbers are text."""


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- proposals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.25, 0.5, 1.0, 2.0])
def test_tokens_are_distributed_as_the_softmax_says(temperature: float) -> None:
    """All uniform numbers of a fine grid: the share of each token is its probability."""
    logits = random_logits(3, 7)
    logits[:, 2] = -torch.inf
    cells = 20_000
    grid = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    wanted = torch.softmax(logits.double() / temperature, -1)
    for row in range(3):
        drawn = propose(logits[row].expand(1, cells, 7), grid[None], temperature)[0]
        shares = torch.bincount(drawn, minlength=7) / cells
        # Each token is one interval, so that only its two ends can be off, by one cell each.
        assert (shares - wanted[row]).abs().max() <= 2 / cells
        assert shares[2] == 0


@pytest.mark.parametrize("at", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("allowed", [[0], [3], [4, 6], [2, 3, 4]])
def test_what_is_ruled_out_is_never_drawn(
    at: float, temperature: float, allowed: list[int]
) -> None:
    logits = torch.full((1, 200, 9), -torch.inf)
    logits[..., allowed] = random_logits(1, 200, len(allowed))
    uniforms = torch.full((1, 200), at, dtype=torch.float64)
    assert set(propose(logits, uniforms, temperature).flatten().tolist()) <= set(allowed)


def test_the_ends_of_the_interval_are_the_first_and_the_last_token() -> None:
    logits = torch.tensor([[[-torch.inf, 0.0, 1.0, 2.0, -torch.inf]]]).expand(1, 2, 5)
    uniforms = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert propose(logits, uniforms, 1.0).tolist() == [[1, 3]]


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = random_logits(4, 5, 11)
    uniforms = torch.rand(4, 5, dtype=torch.float64)
    assert torch.equal(propose(logits, uniforms, 0), logits.argmax(-1))
    # A ten-thousandth is as good as none.
    assert torch.equal(propose(logits, uniforms, 1e-4), logits.argmax(-1))


def test_large_logits_do_not_overflow() -> None:
    """exp() of float64 ends at 709, where the published rule breaks down."""
    logits = torch.tensor([[[5000.0, 5000.0 + math.log(3), -5000.0]]]).expand(1, 4, 3)
    uniforms = torch.tensor([[0.0, 0.24, 0.26, 0.99]], dtype=torch.float64)
    assert propose(logits, uniforms, 1.0).tolist() == [[0, 0, 1, 1]]


def test_low_precision_logits_are_drawn_in_float64() -> None:
    logits = random_logits(2, 300, 50)
    uniforms = torch.rand(2, 300, dtype=torch.float64)
    low = logits.bfloat16()
    assert torch.equal(propose(low, uniforms, 1.0), propose(low.double(), uniforms, 1.0))


def test_wide_vocabularies_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, uniforms = random_logits(3, 5, 11), torch.rand(3, 5, dtype=torch.float64)
    whole = propose(logits, uniforms, 1.0)
    for most in (1, 11, 40):
        monkeypatch.setattr(sampling, "_MOST_WIDE", most)
        assert torch.equal(propose(logits, uniforms, 1.0), whole)
    assert propose(logits[:0], uniforms[:0], 1.0).shape == (0, 5)


def test_confidence_is_the_probability_without_temperature() -> None:
    logits = random_logits(2, 3, 9)
    tokens = torch.tensor([[0, 4, 8], [8, 1, 1]])
    wanted = [
        [float(torch.softmax(logits[row, at].double(), -1)[tokens[row, at]]) for at in range(3)]
        for row in range(2)
    ]
    assert torch.allclose(probability_of(logits, tokens), torch.tensor(wanted), atol=1e-6)
    assert probability_of(logits.bfloat16(), tokens).dtype == torch.float32


# --- how many -------------------------------------------------------------------------------------


def published_quota(masks: int, steps: int) -> list[int]:
    """`get_num_transfer_tokens` of LLaDA, for one row."""
    return [masks // steps + (1 if step < masks % steps else 0) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_the_quota_is_the_published_one(steps: int) -> None:
    for masks in range(steps, 20):
        found = [
            int(quota(*(torch.tensor([number]) for number in (masks, steps, step))))
            for step in range(steps)
        ]
        assert found == published_quota(masks, steps)
        assert sum(found) == masks


def test_the_quota_by_hand_and_by_row() -> None:
    masks, steps = torch.tensor([7, 8, 2]), torch.tensor([3, 4, 4])
    taken = [quota(masks, steps, torch.full((3,), step)).tolist() for step in range(5)]
    # The last row asks for less than one a step, but decoding always goes on; so it does when the
    # steps are over.
    assert taken == [[3, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1]]


def test_a_span_has_its_share_of_the_steps() -> None:
    assert [steps_of_span(8, 32, steps) for steps in (1, 4, 16, 32, 64)] == [1, 1, 4, 8, 8]
    assert [steps_of_span(size, 10, 5) for size in (4, 4, 2)] == [2, 2, 1]
    assert steps_of_span(3, 10, 5) == 2  # rounded up


@pytest.mark.parametrize("seed", range(5))
def test_the_most_confident_are_chosen(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    # Few different values, so that there are ties, and some positions that are not eligible.
    confidence = torch.randint(0, 4, (6, 9), generator=random).float()
    confidence[confidence == 0] = -torch.inf
    counts = torch.randint(0, 10, (6,), generator=random)
    found = most_confident(confidence, counts)
    for row, values in enumerate(confidence.tolist()):
        eligible = [at for at in range(9) if values[at] > -math.inf]
        best = sorted(eligible, key=lambda at: (-values[at], at))[: int(counts[row])]
        assert found[row].nonzero()[:, 0].tolist() == sorted(best)


# --- the end --------------------------------------------------------------------------------------

ENDINGS = {
    "nothing decided": ([M, M, M, M], [M, M, M, M], False),
    "text only, all decided": ([5, 6, 7, 8], [5, 6, 7, 8], True),
    "text and masks": ([5, M, 7, M], [5, M, 7, M], False),
    "a mask before the end": ([5, M, E, 8], [5, M, E, 8], False),
    "a mask at the front, the end decided": ([M, E, E, E], [M, E, E, E], False),
    "the end, then masks": ([5, E, M, M], [5, E, E, E], True),
    "the end, then text": ([5, E, 7, M], [5, E, E, E], True),
    "the end at once": ([E, M, 7, M], [E, E, E, E], True),
    "the end at last": ([5, 6, 7, E], [5, 6, 7, E], True),
    "another end": ([5, T, M, E], [5, T, T, T], True),
    "the first of two ends": ([E, T, M, M], [E, E, E, E], True),
    "all decided, text after the end": ([5, E, 7, 8], [5, E, E, E], True),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_text_ends_where_nothing_before_is_masked(name: str) -> None:
    before, after, is_ended = ENDINGS[name]
    response = torch.tensor([before])
    assert end_rows(response, M, (E, T)).tolist() == [is_ended]
    assert response.tolist() == [after]


def test_rows_end_each_for_itself() -> None:
    response = torch.tensor([before for before, _, _ in ENDINGS.values()])
    ended = end_rows(response, M, (E, T))
    assert ended.tolist() == [is_ended for _, _, is_ended in ENDINGS.values()]
    assert response.tolist() == [after for _, after, _ in ENDINGS.values()]


@pytest.mark.parametrize("name", ENDINGS)
def test_without_stop_tokens_only_full_rows_end(name: str) -> None:
    before, _, _ = ENDINGS[name]
    response = torch.tensor([before])
    assert end_rows(response, M, ()).tolist() == [M not in before]
    assert response.tolist() == [before]


def test_the_end_is_filled_in_place_in_a_view() -> None:
    tokens = torch.tensor([[9, 9, 5, E, M]])
    end_rows(tokens[:, 2:], M, (E,))
    assert tokens.tolist() == [[9, 9, 5, E, E]]


# --- random numbers -------------------------------------------------------------------------------


def test_a_row_draws_the_same_whoever_else_draws() -> None:
    together, alone = (RowStreams(make_generators([4, 5, 6]), 7) for _ in range(2))
    first = together.draw([0, 1, 2])
    assert first.shape == (3, 7) and first.dtype == torch.float64
    assert bool(((first >= 0) & (first < 1)).all()) and len(first.unique()) == 21
    assert torch.equal(alone.draw([1])[0], first[1])
    second = together.draw([2, 1])
    assert torch.equal(alone.draw([1])[0], second[1])
    assert alone.draw([]).shape == (0, 7)
