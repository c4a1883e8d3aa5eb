"""Duplicates, histories, and what a row's place in the batch decides."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.diversity import (
    POOLINGS,
    PROTECTED,
    ROWS,
    SEQUENTIAL,
    VOCAB,
    alike,
    diversified,
    make,
    part,
)
from helpers.diversity import generator as seeded

from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", SEQUENTIAL)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_equal_rows_part_and_do_so_again(strategy: str, pooling: str, dtype: torch.dtype) -> None:
    given = alike(dtype)
    found = diversified(given, strategy=strategy, pooling=pooling)
    assert torch.equal(found.logits[0], given.logits[0])
    for row in (1, 2):
        largest = (found.logits[row] - given.logits[row]).float().norm(dim=-1).max()
        assert float(largest) == pytest.approx(2.0, rel=0.02)
    assert not torch.allclose(found.logits[1].float(), found.logits[2].float(), atol=0.1)
    assert torch.equal(diversified(given, strategy=strategy, pooling=pooling).logits, found.logits)


@pytest.mark.parametrize("strategy", ["odd", "orthogonal-projection"])
def test_seed_and_step_decide_where_equal_rows_go(strategy: str) -> None:
    given = alike()
    found = diversified(given, strategy=strategy).logits
    other_seed = dataclasses.replace(given, seeds=[0, 1, 7])
    assert torch.equal(diversified(other_seed, strategy=strategy).logits[:2], found[:2])
    assert not torch.equal(diversified(other_seed, strategy=strategy).logits[2], found[2])
    other_step = dataclasses.replace(given, step=given.step + 1)
    assert not torch.equal(diversified(other_step, strategy=strategy).logits[1], found[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["odd", "orthogonal-projection"])
def test_equal_rows_stay_equal_when_skipped(strategy: str, dtype: torch.dtype) -> None:
    given = alike(dtype)
    found = diversified(given, strategy=strategy, on_duplicate="skip")
    assert torch.equal(found.logits, given.logits)
    assert len(found.basis) == 1


def test_near_duplicates_are_moved_officially_only() -> None:
    """A residual of about 1e-4: a duplicate by our rule, a direction by the published one."""
    given = alike()
    noise = 3e-4 * torch.randn(given.logits.shape, generator=seeded(4))
    given = dataclasses.replace(given, logits=given.logits + noise)
    assert torch.equal(diversified(given, on_duplicate="skip").logits, given.logits)
    official = diversified(given, on_duplicate="official").logits
    assert all(not torch.equal(official[row], given.logits[row]) for row in (1, 2))


def test_finished_duplicates_add_no_random_direction() -> None:
    given = alike()
    is_open = given.is_open.clone()
    is_open[1:] = False
    # Row 0 is open; rows 1 and 2 are finished and equal, so they add one direction between them.
    assert len(diversified(dataclasses.replace(given, is_open=is_open)).basis) == 2


@pytest.mark.parametrize("strategy", SEQUENTIAL)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("is_alike", [False, True])
def test_two_chunks_with_a_history_are_one_call(
    strategy: str, pooling: str, cut: int, is_alike: bool
) -> None:
    given = alike(rows=ROWS) if is_alike else make()
    options = {"strategy": strategy, "pooling": pooling}
    whole = diversified(given, **options)
    first = diversified(part(given, slice(cut)), **options)
    history = first.basis.clone()
    second = diversified(part(given, slice(cut, None)), first.basis, **options)
    assert torch.equal(torch.cat([first.logits, second.logits]), whole.logits)
    assert torch.equal(second.basis, whole.basis)
    assert torch.equal(torch.cat([first.quality, second.quality]), whole.quality)
    assert torch.equal(first.basis, history)


@pytest.mark.parametrize("strategy", SEQUENTIAL)
@pytest.mark.parametrize("is_alike", [False, True])
def test_the_basis_is_orthonormal(strategy: str, is_alike: bool) -> None:
    basis = diversified(alike(rows=6) if is_alike else make(rows=6), strategy=strategy).basis
    assert basis.dtype == torch.float32
    assert torch.allclose(basis @ basis.mT, torch.eye(len(basis)), atol=1e-6)
    assert len(basis) == 6


def test_later_rows_have_no_say() -> None:
    given = make()
    whole = diversified(given).logits
    assert torch.equal(diversified(part(given, slice(2))).logits, whole[:2])


@pytest.mark.parametrize("strategy", ["odd", "orthogonal-projection", "dpp"])
def test_names_of_tokens_do_not_matter(strategy: str) -> None:
    given = make()
    order = torch.randperm(VOCAB, generator=seeded(8))
    renamed = order.argsort()
    config = DiversityConfig(strategy=strategy)
    found = Diversifier(config, protected=renamed[list(PROTECTED)].tolist())(
        dataclasses.replace(given, logits=given.logits[..., order], tokens=renamed[given.tokens])
    )
    expected = diversified(given, strategy=strategy).logits[..., order]
    assert torch.allclose(found.logits, expected, atol=1e-5)


@pytest.mark.parametrize("strategy", ["odd", "orthogonal-projection"])
def test_a_move_leads_out_of_the_span_of_earlier_rows(strategy: str) -> None:
    given = dataclasses.replace(make(), strength=torch.full((ROWS,), 0.5))
    options = {"strategy": strategy, "quality_gradient": False}
    earlier = diversified(part(given, slice(ROWS - 1)), **options).basis
    row = part(given, slice(ROWS - 1, None))
    moved = dataclasses.replace(row, logits=diversified(row, earlier, **options).logits)
    # What a lone row adds to an empty basis is its unit feature.
    before, after = (
        (earlier @ diversified(one, **options).basis[0]).norm() for one in (row, moved)
    )
    assert after < before
