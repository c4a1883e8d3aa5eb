"""Maxima against `torch.max`."""

from __future__ import annotations

import pytest
import torch
from helpers.diversity import generator

from samplers.text.diversity.maxima import BLOCK, column_maxima, row_maxima


@pytest.mark.parametrize("rows", [1, 2, 300])
@pytest.mark.parametrize("columns", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK, 4 * BLOCK - 1])
def test_as_torch_max_finds_them(rows: int, columns: int) -> None:
    # Few different numbers, so that most maxima occur more than once.
    values = torch.randint(5, (rows, columns), generator=generator()).float()
    for found, dim in ((column_maxima(values), 0), (row_maxima(values), -1)):
        expected, winners = values.max(dim)
        assert torch.equal(found[0], expected)
        assert torch.equal(found[1], winners)


def test_the_end_of_a_row_may_win() -> None:
    values = torch.zeros(2, 2 * BLOCK + 3)
    values[0, -1] = values[1, -3] = 1
    assert row_maxima(values)[1].tolist() == [2 * BLOCK + 2, 2 * BLOCK]
