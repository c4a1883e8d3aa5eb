"""The bubbling union against in-place processing in both orders, on random denoisers."""

import numpy as np
import pytest

from caches.planning.bubbling import Unit, bubbling_union, largest_variation
from gensift.errors import ConfigError

Updates = list[set[int]]


def random_case(seed: int) -> tuple[Updates, list[Unit], list[int]]:
    """Layers of 1 to 4 units, with none to two feed-forwards at any place."""
    random = np.random.default_rng(seed)
    units = []
    for layer in range(int(random.integers(1, 6))):
        kinds = random.random(int(random.integers(1, 5))) < 0.4
        units += [Unit(layer, bool(kind)) for kind in kinds]
    updates = [{0, *random.choice(20, size=3).tolist()} for _ in units]
    count = int(random.integers(0, len(units) + 1))
    return updates, units, random.choice(len(units), size=count, replace=False).tolist()


def in_place(updates: Updates, units: list[Unit], order: list[int]) -> list[tuple[int, ...]]:
    """Each selected unit in turn gets what later feed-forwards have by then."""
    changed = [set(steps) for steps in updates]
    for u in order:
        for v, unit in enumerate(units):
            if unit.is_feed_forward and unit.layer >= units[u].layer:
                changed[u] |= changed[v]
    return [tuple(sorted(steps)) for steps in changed]


def test_the_order_of_processing_does_not_matter() -> None:
    for seed in range(200):
        updates, units, selected = random_case(seed)
        found = list(bubbling_union(updates, units, selected))
        assert found == in_place(updates, units, sorted(selected))
        assert found == in_place(updates, units, sorted(selected, reverse=True))


def test_selected_units_update_with_all_later_feed_forwards() -> None:
    for seed in range(200):
        updates, units, selected = random_case(seed)
        found = bubbling_union(updates, units, selected)
        for u, (before, after) in enumerate(zip(updates, found, strict=True)):
            if u not in selected:
                assert after == tuple(sorted(before))
                continue
            later = [
                steps
                for steps, unit in zip(updates, units, strict=True)
                if unit.is_feed_forward and unit.layer >= units[u].layer
            ]
            assert set(after) == before.union(*later)


def test_without_selection_nothing_changes_and_one_unit_is_enough() -> None:
    units = [Unit(0, False), Unit(0, True), Unit(1, False), Unit(1, True)]
    updates = [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert bubbling_union(updates, units, ()) == tuple(updates)
    assert bubbling_union(updates, units, (0,)) == ((0, 1, 2, 4), *updates[1:])
    assert bubbling_union(updates, units, (2,)) == (*updates[:2], (0, 3, 4), (0, 4))


def test_feed_forwards_of_a_joint_layer_are_a_pair() -> None:
    units = [Unit(0, False), Unit(0, True), Unit(0, True)]
    updates = [{0}, {0, 1}, {0, 2}]
    assert bubbling_union(updates, units, (1, 2))[1:] == ((0, 1, 2), (0, 1, 2))
    assert bubbling_union(updates, units, (0,))[0] == (0, 1, 2)


def test_units_that_do_not_fit_are_refused() -> None:
    units = [Unit(0, False), Unit(0, True)]
    with pytest.raises(ConfigError, match="for 1 units were given; 2 units are described"):
        bubbling_union([{0}], units, ())
    with pytest.raises(ConfigError, match=r"`selected` holds \[2\]"):
        bubbling_union([{0}, {0}], units, (2,))
    # Single blocks of FLUX that start again from 0, for one.
    with pytest.raises(ConfigError, match=r"layer 0 follows a later one; .* count them through"):
        bubbling_union([{0}, {0}], [Unit(1, True), Unit(0, True)], ())


def test_the_largest_variation_is_chosen_and_ties_go_to_earlier_units() -> None:
    assert largest_variation([1.0, 3.0, 2.0, 5.0], 2) == (1, 3)
    assert largest_variation([2.0, 1.0, 2.0, 2.0], 2) == (0, 2)
    assert largest_variation(np.tile([1.0, 2.0], 100), 50) == tuple(range(1, 100, 2))
    assert largest_variation([2.0, 1.0], 0) == ()
    assert largest_variation([2.0, 1.0], 2) == (0, 1)


def test_scores_that_do_not_rank_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 units were asked for; give 0 to 2, all there are"):
        largest_variation([2.0, 1.0], 3)
    with pytest.raises(ConfigError, match="-1 units were asked for"):
        largest_variation([2.0, 1.0], -1)
    for scores in ([1.0, np.nan], [[1.0]]):
        with pytest.raises(ConfigError, match=r"scores of shape .*; give one finite number"):
            largest_variation(scores, 1)
