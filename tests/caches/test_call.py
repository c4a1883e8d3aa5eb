from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch

from caches.call import CallLedger, layout_of
from gensift.denoising.rows_in_call import RowsInCall, WholeCall


def all_rows(count: int) -> RowsInCall:
    return RowsInCall(WholeCall(count, count), tuple(range(count)))


def some(call: WholeCall, rows: Sequence[int]) -> RowsInCall:
    return RowsInCall(call, tuple(rows))


class Loop:
    """Enters calls in a ledger, each of which succeeds."""

    def __init__(self) -> None:
        self.ledger = CallLedger()

    def continues(
        self,
        step: int | None,
        rows: RowsInCall,
        name: str | None = None,
        layout: Hashable = None,
    ) -> bool:
        call = self.ledger.enter(step, name, rows, layout)
        self.ledger.leave(call)
        return call.is_continuous


def test_a_row_continues_where_it_ran_at_the_step_before() -> None:
    loop = Loop()
    assert [loop.continues(step, all_rows(2)) for step in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(
    "steps", [(0, 2), (0, 0), (3, 2), (0, None), (None, 0), (None, None)], ids=str
)
def test_any_other_step_is_no_continuation(steps: tuple[int | None, int | None]) -> None:
    loop = Loop()
    loop.continues(steps[0], all_rows(2))
    assert not loop.continues(steps[1], all_rows(2))


def test_outside_of_a_run_nothing_is_remembered() -> None:
    loop = Loop()
    loop.continues(0, all_rows(1))
    loop.continues(None, all_rows(1))
    assert loop.continues(1, all_rows(1))


def test_every_row_must_have_run() -> None:
    loop, first = Loop(), WholeCall(4, 4)
    loop.continues(0, some(first, [0, 2]))
    second = WholeCall(4, 4)
    assert loop.continues(1, some(second, [2]))
    assert not loop.continues(1, some(second, [0, 1]))
    # Row 1 has begun by now; row 3 never has.
    third = WholeCall(4, 4)
    assert loop.continues(2, some(third, [0, 1, 2]))
    assert not loop.continues(2, some(third, [3]))


def test_a_row_that_missed_a_step_begins_anew() -> None:
    loop = Loop()
    for step, rows in enumerate([[0, 1], [0], [0, 1], [0, 1]]):
        found = loop.continues(step, some(WholeCall(2, 2), rows))
        assert found is (step in (1, 3))


def contexts(ledger: CallLedger, step: int, calls: Sequence[tuple[str | None, int]]) -> list[str]:
    return [ledger.enter(step, name, all_rows(count)).branch for name, count in calls]


def test_calls_of_a_step_are_told_apart_by_name_then_by_number() -> None:
    ledger = CallLedger()
    for step in range(2):
        assert contexts(ledger, step, [("cond", 2), ("uncond", 2)]) == ["cond", "uncond"]
        assert contexts(ledger, step, [("cond", 2)]) == ["cond1"]
    ledger.clear()
    for step in range(2):
        assert contexts(ledger, step, [(None, 2), (None, 2), ("", 2)]) == ["0", "1", "2"]


def test_branches_do_not_continue_each_other() -> None:
    loop = Loop()
    loop.continues(0, all_rows(2), "cond")
    assert not loop.continues(1, all_rows(2), "uncond")
    assert loop.continues(1, all_rows(2), "cond")


def test_micro_batches_of_a_call_are_one_call() -> None:
    ledger = CallLedger()
    seen: list[Hashable] = []
    for step in range(3):
        for name in ("cond", None):
            call = WholeCall(6, 6)
            parts = []
            for rows in ([0, 1], [2, 3], [4, 5]):
                parts.append(ledger.enter(step, name, some(call, rows)))
                ledger.leave(parts[-1])
            assert len({part.context for part in parts}) == 1
            assert all(part.is_continuous is (step > 0) for part in parts)
            seen.append(parts[0].context)
    assert seen[:2] == seen[2:4] == seen[4:] and seen[0] != seen[1]


def test_micro_batches_may_be_cut_otherwise_from_step_to_step() -> None:
    loop = Loop()
    for rows in ([0, 1, 2], [3]):
        loop.continues(0, some(WholeCall(4, 4), rows))
    # Two calls, told apart by number: their rows are not those of one call.
    assert not loop.continues(1, some(WholeCall(4, 4), [0, 1, 2, 3]))
    loop, call = Loop(), WholeCall(4, 4)
    for rows in ([0, 1, 2], [3]):
        loop.continues(0, some(call, rows))
    assert loop.continues(1, some(WholeCall(4, 4), [0, 1, 2, 3]))


def test_where_guidance_stops_rows_begin_anew() -> None:
    loop = Loop()
    found = [loop.continues(step, all_rows(4 if step < 2 else 2)) for step in range(4)]
    assert found == [False, True, False, True]
    # Nor do they go on where they left off, should it come back.
    assert not loop.continues(4, all_rows(4))


def test_contexts_are_the_same_at_every_step_and_differ_by_size() -> None:
    ledger = CallLedger()
    found = [ledger.enter(step, None, all_rows(4)).context for step in range(3)]
    assert all(left == right for left, right in pairwise(found))
    assert ledger.enter(3, None, all_rows(2)).context not in found


def test_pruning_and_branching_are_followed_in_each_group() -> None:
    loop = Loop()
    loop.continues(0, RowsInCall(WholeCall(6, 3), tuple(range(6))))
    loop.ledger.select({0: 2, 2: 2}, 3)
    after = WholeCall(6, 3)
    assert loop.continues(1, some(after, [0, 2, 3, 5]))
    assert not loop.continues(1, some(after, [1])) and not loop.continues(1, some(after, [4]))


def test_a_copy_of_a_row_that_did_not_run_begins_anew() -> None:
    loop = Loop()
    loop.continues(0, some(WholeCall(2, 2), [0]))
    loop.ledger.select({0: 1, 1: 0}, 2)
    call = WholeCall(2, 2)
    assert not loop.continues(1, some(call, [0]))
    assert loop.continues(1, some(call, [1]))


def test_a_call_that_failed_may_be_made_again() -> None:
    """So does a row gate that runs out of memory: it makes the call in smaller parts."""
    loop, call = Loop(), WholeCall(4, 4)
    loop.continues(0, all_rows(4))
    assert loop.ledger.enter(1, None, some(call, range(4))).is_continuous
    for rows in ([0, 1], [2, 3]):
        assert loop.continues(1, some(call, rows))
    assert loop.continues(2, all_rows(4))


def test_rows_of_another_size_or_type_begin_anew() -> None:
    loop, batch = Loop(), torch.zeros(2, 4, 8, 8)
    assert not loop.continues(0, all_rows(2), layout=layout_of(batch))
    assert loop.continues(1, all_rows(2), layout=layout_of(torch.ones(2, 4, 8, 8)))
    for step, other in enumerate((batch[:, :, :4], batch.double(), batch.to("meta")), 2):
        assert not loop.continues(step, all_rows(2), layout=layout_of(other))


@pytest.mark.parametrize(
    ("left", "right", "is_same"),
    [
        ([torch.zeros(4, 1, 2)], [torch.zeros(4, 1, 2)] * 3, True),
        ([torch.zeros(4, 1, 2)], [torch.zeros(4, 1, 3)], False),
        ([torch.zeros(4, 1, 2), torch.zeros(4, 1, 3)], [torch.zeros(4, 1, 2)], False),
        ([[torch.zeros(2), None]], [[torch.zeros(2), None]], True),
        ([[torch.zeros(2), None]], [[torch.zeros(2), torch.zeros(2)]], False),
    ],
)
def test_layout_of_lists_of_rows(left: Any, right: Any, is_same: bool) -> None:
    assert (layout_of(left) == layout_of(right)) is is_same


def test_a_new_run_begins_with_nothing() -> None:
    loop = Loop()
    loop.continues(0, all_rows(1))
    loop.ledger.clear()
    assert not loop.continues(1, all_rows(1))
