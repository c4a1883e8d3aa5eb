"""Which of equal maxima counts."""

from __future__ import annotations

import pytest
import torch

from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.gradient import Columns
from samplers.text.diversity.pooling import pool
from samplers.text.diversity.rows import RowReader

VOCAB = 40


@pytest.mark.parametrize("is_open_first", [True, False])
def test_the_first_of_equal_maxima_counts(is_open_first: bool) -> None:
    """A certain open position and a committed one with the same token: 1 twice."""
    logits = torch.full((1, VOCAB), -200.0)
    logits[0, 16] = 0.0
    given = Candidates(
        logits=logits[None],
        positions=torch.tensor([[0 if is_open_first else 4]]),
        is_open=torch.tensor([[True]]),
        tokens=torch.tensor([[16, 0, 16, 0, 16]]),
        is_committed=torch.tensor([[False, False, True, False, False]]),
        strength=torch.ones(1),
        seeds=[0],
        step=0,
    )
    nothing = torch.tensor([], dtype=torch.int64)
    reader = RowReader(given.stacked(), top_k=0, dropped=nothing, most_rows=1)
    rows = reader.read(given.logits[None], slice(0, 1))
    pooled = pool(rows, "max", None)
    assert float(pooled.vectors[0, 16]) == 1.0
    gradient = pooled.vjp(torch.ones(1, VOCAB))
    assert isinstance(gradient, Columns)
    assert float(gradient.values[0, 16]) == float(is_open_first)
    assert int(gradient.winners[0, 16]) == 0
