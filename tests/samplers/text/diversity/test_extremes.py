"""Equal, certain and ruled-out tokens: where a sparse gradient could go wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers.diversity import (
    LENGTH,
    POOLINGS,
    PROTECTED,
    REPELLING,
    VOCAB,
    diversified,
    generator,
    make,
)
from torch import Tensor

from samplers.text.diversity.candidates import Candidates


def all_open(row: Tensor) -> Candidates:
    """This row `(width, vocab)` behind a random one, with nothing committed."""
    width = len(row)
    return make(
        rows=2,
        logits=torch.stack([3 * torch.randn(row.shape, generator=generator(7)), row]),
        positions=torch.arange(width).expand(2, width),
        is_open=torch.ones(2, width, dtype=torch.bool),
        is_committed=torch.zeros(2, LENGTH, dtype=torch.bool),
    )


def definition(given: Candidates) -> Tensor:
    """The move of row 1, by autograd in float64."""
    probabilities = [row.double().requires_grad_().softmax(-1) for row in given.logits]
    logits = given.logits[1].double().requires_grad_()
    probabilities[1] = logits.softmax(-1)
    first, unit = (
        pooled / pooled.norm() for pooled in (rows.max(0).values for rows in probabilities)
    )
    residual = (unit - (unit @ first) * first).detach()
    quality = probabilities[1].max(-1).values.mean()
    loss = -quality * (unit @ (residual / residual.norm()))
    gradient = torch.autograd.grad(loss, logits)[0]
    gradient[:, list(PROTECTED)] = 0
    return -given.strength[1].double() * gradient / gradient.norm(dim=-1).max()


def found(given: Candidates, **options: Any) -> Tensor:
    """The move of row 1."""
    # From logits in float64, whose rounding would hide a small move.
    wide = dataclasses.replace(given, logits=given.logits.double())
    return diversified(wide, **options).logits[1] - wide.logits[1]


def certain(missing: float, token: int) -> Tensor:
    """Logits `(vocab,)` in which all but this much falls to one token."""
    others = torch.randn(VOCAB, generator=generator(token), dtype=torch.float64)
    others[token] = -torch.inf
    others[token] = others.logsumexp(0) + torch.tensor(1 / missing - 1, dtype=torch.float64).log()
    return others.float()


def test_the_top_token_of_a_position_may_win_its_column_or_lose_it() -> None:
    row = torch.randn(3, VOCAB, generator=generator(1))
    row[0, 5], row[1, 5] = 6.0, 4.0
    given = all_open(row)
    top = given.logits[1].softmax(-1).max(-1)
    assert top.indices[:2].tolist() == [5, 5]
    assert top.values[0] > top.values[1]
    assert torch.allclose(found(given), definition(given), atol=1e-6)


def test_of_equal_positions_the_first_is_moved() -> None:
    row = 3 * torch.randn(3, VOCAB, generator=generator(2))
    row[2] = row[0]
    given = all_open(row)
    assert torch.allclose(found(given), definition(given), atol=1e-6)
    alone = found(given, quality=False)
    assert alone[0].norm() > 0.1
    assert torch.equal(alone[2], torch.zeros(VOCAB).double())


@pytest.mark.parametrize("missing", [1e-2, 1e-4, 1e-6])
def test_a_certain_position_is_moved_the_right_way(missing: float) -> None:
    """Alone, and beside one that is not certain, against which its move is tiny."""
    position = certain(missing, 5)
    # All that tells P from 1 in float32.
    tolerance = 1e-5 + 2 * torch.finfo(torch.float32).eps / missing
    for row in (position[None], torch.stack([position, torch.zeros(VOCAB)])):
        given = all_open(row)
        expected = definition(given)
        error = (found(given) - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(error.max()) < tolerance


@pytest.mark.parametrize("strategy", REPELLING)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("top_k", [0, 4])
def test_what_is_ruled_out_stays_so(strategy: str, pooling: str, top_k: int) -> None:
    given = make()
    logits = given.logits.clone()
    logits[..., 20] = logits[:, 1, 21] = -torch.inf
    given = dataclasses.replace(given, logits=logits)
    moved = diversified(given, strategy=strategy, pooling=pooling, top_k=top_k).logits
    assert torch.equal(moved.isneginf(), logits.isneginf())
    assert not bool(moved.isnan().any())
    assert bool((moved[3] != logits[3]).any())
