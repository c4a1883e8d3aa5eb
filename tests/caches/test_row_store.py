from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from caches.row_store import RowStore, with_tokens


def rows_of(numbers: Sequence[float], *shape: int) -> Tensor:
    """`(len(numbers), *shape)`, each row full of its number."""
    column = torch.tensor(numbers, dtype=torch.float32).view(-1, *[1] * len(shape))
    return column.expand(len(numbers), *shape).clone()


def numbers_in(found: Tensor | None) -> list[float] | None:
    return None if found is None else found.flatten(1)[:, 0].tolist()


def test_what_came_in_as_one_batch_goes_out_as_the_very_same_tensor() -> None:
    store, batch = RowStore(), rows_of([0, 1, 2], 4)
    store.put("cond", [5, 2, 7], batch)
    assert store.get("cond", [5, 2, 7]) is batch


def test_part_of_a_batch_in_another_order() -> None:
    store = RowStore()
    store.put("cond", [5, 2, 7], rows_of([50, 20, 70], 4, 2))
    found = store.get("cond", [7, 5])
    assert found is not None and found.shape == (2, 4, 2)
    assert numbers_in(found) == [70, 50]
    assert numbers_in(store.get("cond", [2, 5, 7])) == [20, 50, 70]
    assert numbers_in(store.get("cond", [2, 2])) == [20, 20]


def test_rows_of_several_batches() -> None:
    store = RowStore()
    store.put("cond", [0, 1], rows_of([0, 10], 3))
    store.put("cond", [2, 3], rows_of([20, 30], 3))
    assert numbers_in(store.get("cond", [1, 2])) == [10, 20]
    assert numbers_in(store.get("cond", [3, 0, 2])) == [30, 0, 20]


def test_the_newest_tensor_of_a_row_counts() -> None:
    store = RowStore()
    store.put("cond", [0, 1, 2], rows_of([0, 10, 20], 3))
    store.put("cond", [1], rows_of([11], 3))
    assert numbers_in(store.get("cond", [0, 1, 2])) == [0, 11, 20]


@pytest.mark.parametrize(
    "other",
    [rows_of([1], 4), rows_of([1], 3).double(), torch.ones(1, 3, device="meta")],
    ids=["shape", "dtype", "device"],
)
def test_rows_of_different_layouts_are_not_joined(other: Tensor) -> None:
    store = RowStore()
    store.put("cond", [0], rows_of([0], 3))
    store.put("cond", [1], other)
    assert store.get("cond", [0, 1]) is None
    assert store.get("cond", [1]) is other


def test_padded_rows_of_different_lengths_are_joined() -> None:
    store = RowStore(is_padded=True)
    store.put("cond", [0, 1], rows_of([1, 2], 3, 2))
    store.put("cond", [2], rows_of([3], 5, 2))
    found = store.get("cond", [2, 1])
    assert found is not None and found.shape == (2, 5, 2)
    assert found[:, :, 0].tolist() == [[3] * 5, [2, 2, 2, 0, 0]]
    store.put("cond", [3], rows_of([4], 5, 7))
    assert store.get("cond", [2, 3]) is None


@pytest.mark.parametrize(("tokens", "expected"), [(2, [7, 7]), (3, [7, 7, 7]), (4, [7, 7, 7, 0])])
def test_padded_rows_are_cut_off_or_filled_up(tokens: int, expected: list[int]) -> None:
    found = with_tokens(rows_of([7], 3, 2), tokens)
    assert found[0, :, 0].tolist() == found[0, :, 1].tolist() == expected


def test_a_row_that_is_missing_or_of_another_context_is_not_given() -> None:
    store = RowStore()
    store.put("cond", [0, 1], rows_of([0, 10], 3))
    assert store.get("cond", [0, 2]) is None
    assert store.get("uncond", [0, 1]) is None
    assert store.get("cond", []) is None
    store.put("uncond", [0, 1], rows_of([5, 15], 3))
    assert numbers_in(store.get("cond", [0, 1])) == [0, 10]
    assert numbers_in(store.get("uncond", [0, 1])) == [5, 15]


def test_pruned_rows_are_forgotten_and_the_others_keep_their_numbers() -> None:
    store = RowStore()
    store.put("cond", range(4), rows_of([0, 10, 20, 30], 3))
    store.select({1: 1, 3: 3}, 4)
    assert numbers_in(store.get("cond", [1, 3])) == [10, 30]
    assert store.get("cond", [0]) is None and store.get("cond", [1, 2]) is None


def test_branching_copies_a_row_to_several_also_to_dead_ones() -> None:
    store = RowStore()
    store.put("cond", range(4), rows_of([0, 10, 20, 30], 3))
    store.select({0: 0, 3: 3}, 4)
    store.select({0: 3, 1: 3, 2: 0, 3: 3}, 4)
    assert numbers_in(store.get("cond", range(4))) == [30, 30, 0, 30]
    store.put("cond", [1], rows_of([31], 3))
    assert numbers_in(store.get("cond", range(4))) == [30, 31, 0, 30]


def test_sources_are_those_before_the_change() -> None:
    store = RowStore()
    store.put("cond", range(2), rows_of([0, 10], 3))
    store.select({0: 1, 1: 0}, 2)
    assert numbers_in(store.get("cond", [0, 1])) == [10, 0]


def test_a_source_of_which_nothing_is_kept_leaves_nothing() -> None:
    store = RowStore()
    store.put("cond", [0], rows_of([0], 3))
    store.select({0: 1, 1: 0}, 2)
    assert store.get("cond", [0]) is None
    assert numbers_in(store.get("cond", [1])) == [0]


def test_guidance_groups_follow_alike() -> None:
    store = RowStore()
    store.put("both", range(6), rows_of([0, 1, 2, 100, 101, 102], 3))
    store.put("single", range(3), rows_of([7, 8, 9], 3))
    store.select({0: 2, 1: 1}, 3)
    assert numbers_in(store.get("both", [0, 1, 3, 4])) == [2, 1, 102, 101]
    assert store.get("both", [2]) is None and store.get("both", [5]) is None
    assert numbers_in(store.get("single", [0, 1])) == [9, 8]


def test_memory_is_that_of_the_tensors_which_rows_still_need() -> None:
    store = RowStore()
    store.put("cond", range(4), rows_of([0, 1, 2, 3], 5))
    store.put("uncond", [0], rows_of([0], 5))
    assert store.num_bytes == (4 + 1) * 5 * 4
    store.put("cond", range(4), rows_of([4, 5, 6, 7], 5))
    assert store.num_bytes == (4 + 1) * 5 * 4
    store.clear()
    assert store.num_bytes == 0
    assert store.get("cond", [0]) is None
