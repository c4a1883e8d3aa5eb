"""What repulsion must leave alone."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
import torch
from helpers.diversity import (
    LENGTH,
    POOLINGS,
    PROTECTED,
    REPELLING,
    ROWS,
    SEQUENTIAL,
    VOCAB,
    WIDTH,
    diversified,
    generator,
    make,
)
from torch import Tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strategy", ["none", *REPELLING])
def test_no_strength_changes_no_bit(strategy: str, dtype: torch.dtype) -> None:
    given = make(strength=0.0)
    given = dataclasses.replace(given, logits=given.logits.to(dtype))
    found = diversified(given, strategy=strategy)
    assert found.logits.dtype == dtype
    assert torch.equal(found.logits, given.logits)


def test_none_returns_the_logits_themselves() -> None:
    given = make()
    found = diversified(given, strategy="none")
    assert found.logits is given.logits
    assert found.basis.shape == (0, VOCAB)


@pytest.mark.parametrize("strategy", SEQUENTIAL)
def test_row_0_is_a_plain_sample(strategy: str) -> None:
    given = make()
    found = diversified(given, strategy=strategy).logits
    assert torch.equal(found[0], given.logits[0])
    assert all(not torch.equal(found[row], given.logits[row]) for row in range(1, ROWS))


def test_dpp_moves_row_0_too() -> None:
    given = make()
    assert not torch.equal(diversified(given, strategy="dpp").logits[0], given.logits[0])


@pytest.mark.parametrize("strategy", SEQUENTIAL)
def test_a_single_row_stays(strategy: str) -> None:
    given = make(rows=1)
    assert torch.equal(diversified(given, strategy=strategy).logits, given.logits)


@pytest.mark.parametrize("strategy", REPELLING)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_and_protected_tokens_stay(strategy: str, pooling: str) -> None:
    given = make()
    found = diversified(given, strategy=strategy, pooling=pooling).logits
    assert torch.equal(found[~given.is_open], given.logits[~given.is_open])
    assert torch.equal(found[..., list(PROTECTED)], given.logits[..., list(PROTECTED)])


@pytest.mark.parametrize("strategy", REPELLING)
def test_padding_is_not_even_read(strategy: str) -> None:
    given = make()
    broken = given.logits.masked_fill(~given.is_open[..., None], torch.nan)
    expected = diversified(given, strategy=strategy).logits
    found = diversified(dataclasses.replace(given, logits=broken), strategy=strategy).logits
    assert torch.equal(found[given.is_open], expected[given.is_open])


@pytest.mark.parametrize("strategy", REPELLING)
def test_open_positions_may_come_in_any_order(strategy: str) -> None:
    given = make()
    slots = torch.randperm(WIDTH, generator=generator(5))
    fields = ("logits", "positions", "is_open")
    shuffled = {name: getattr(given, name)[:, slots] for name in fields}
    found = diversified(dataclasses.replace(given, **shuffled), strategy=strategy).logits
    assert torch.equal(found, diversified(given, strategy=strategy).logits[:, slots])


@pytest.mark.parametrize("strategy", REPELLING)
def test_what_the_caller_owns_stays(strategy: str) -> None:
    given = make()
    before = {
        field.name: getattr(given, field.name).clone()
        for field in dataclasses.fields(given)
        if isinstance(getattr(given, field.name), Tensor)
    }
    state = torch.get_rng_state()
    diversified(given, strategy=strategy)
    assert all(torch.equal(getattr(given, name), value) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_by_the_rounding_of_the_output_only(dtype: torch.dtype) -> None:
    half = make().logits.to(dtype)
    found = diversified(make(logits=half)).logits
    expected = diversified(make(logits=half.float())).logits
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("strategy", REPELLING)
def test_finished_rows_stay(strategy: str) -> None:
    given = make()
    is_open = given.is_open.clone()
    is_open[1] = False
    found = diversified(dataclasses.replace(given, is_open=is_open), strategy=strategy)
    assert torch.equal(found.logits[1], given.logits[1])
    assert float(found.quality[1]) == 0.0


def test_a_row_in_which_nothing_counts_adds_nothing() -> None:
    nothing = torch.zeros(2, WIDTH, dtype=torch.bool)
    given = make(rows=2, is_open=nothing, is_committed=torch.zeros(2, LENGTH, dtype=torch.bool))
    for options in product(POOLINGS, ("probabilities", "embeddings")):
        pooling, features = options
        found = diversified(given, pooling=pooling, features=features)
        assert torch.equal(found.logits, given.logits)
        assert len(found.basis) == 0
