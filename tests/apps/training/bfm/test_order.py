"""Which rows a step sees."""

import torch

from apps.training.bfm.order import RowOrder


def test_a_pass_sees_each_row_once_and_each_pass_is_shuffled_anew() -> None:
    order = RowOrder(10, 4, seed=3, purpose="flow")
    seen = torch.cat([order.at(step) for step in range(5)])
    first, second = seen[:10], seen[10:]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)


def test_steps_can_be_asked_in_any_order() -> None:
    steps = [5, 0, 3]
    once = {step: RowOrder(7, 3, 0, "flow").at(step) for step in steps}
    order = RowOrder(7, 3, 0, "flow")
    for step in sorted(steps):
        assert torch.equal(order.at(step), once[step])


def test_a_batch_may_be_larger_than_the_data() -> None:
    rows = RowOrder(3, 8, 0, "flow").at(1).tolist()
    assert len(rows) == 8 and set(rows) == {0, 1, 2}


def test_seeds_and_stages_have_orders_of_their_own() -> None:
    orders = [RowOrder(50, 50, seed, stage).at(0) for seed in (0, 1) for stage in ("flow", "frn")]
    assert len({tuple(order.tolist()) for order in orders}) == 4
