import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensift.cost import Cost, Stopwatch, peak_memory_mib
from gensift.errors import ConfigError

counts = st.integers(0, 1000)
named = st.dictionaries(st.sampled_from(["clip", "pick"]), counts)
costs = st.builds(
    Cost,
    nfe=counts,
    denoiser_calls=st.none() | counts,
    decodes=counts,
    preview_decodes=counts,
    reward_calls=named,
    tokens=counts,
    cache_hits=counts,
    seconds=st.dictionaries(st.sampled_from(["denoise", "decode"]), counts.map(float)),
    peak_memory_mib=st.none() | counts.map(float),
)


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_seconds(self, seconds):
        self.now += seconds


@given(costs)
def test_json_round_trip_and_neutral_element(cost):
    assert Cost.from_dict(json.loads(json.dumps(cost.to_dict()))) == cost
    assert cost + Cost() == cost == Cost() + cost


@given(costs, costs, costs)
def test_addition_is_associative_and_commutative(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


def test_addition_sums_work_and_takes_the_higher_peak():
    total = Cost(nfe=2, reward_calls={"clip": 1}, seconds={"a": 1.0}, peak_memory_mib=5.0) + Cost(
        nfe=3, reward_calls={"clip": 2, "pick": 4}, seconds={"b": 2.0}, peak_memory_mib=3.0
    )
    assert total.nfe == 5
    assert total.reward_calls == {"clip": 3, "pick": 4}
    assert total.total_seconds == 3.0
    assert total.peak_memory_mib == 5.0


def test_difference_compares_work_only():
    planned = Cost(nfe=10, denoiser_calls=None, reward_calls={"clip": 2, "pick": 0})
    spent = Cost(
        nfe=10,
        denoiser_calls=7,
        reward_calls={"clip": 2},
        cache_hits=4,
        seconds={"denoise": 1.0},
        peak_memory_mib=1.0,
    )
    assert planned.same_work(spent) and spent.same_work(planned)
    more = spent + Cost(decodes=1, preview_decodes=2, tokens=3, reward_calls={"pick": 1})
    assert planned.difference(more) == {
        "decodes": (0, 1),
        "preview_decodes": (0, 2),
        "tokens": (0, 3),
        "reward_calls.pick": (0, 1),
    }
    assert Cost(denoiser_calls=1).difference(Cost(denoiser_calls=2)) == {"denoiser_calls": (1, 2)}


def test_unknown_part_of_a_cost_is_refused():
    with pytest.raises(ConfigError, match=r"`decods` is no part of a cost\. Nearest: 'decodes'"):
        Cost.from_dict({"decods": 1})


def test_nested_parts_do_not_count_twice():
    clock = FakeClock()
    watch = Stopwatch(clock)
    with watch.part("total"):
        clock.pass_seconds(1)
        with watch.part("denoise"):
            clock.pass_seconds(2)
            with watch.part("decode"):
                clock.pass_seconds(4)
        with watch.part("denoise"):
            clock.pass_seconds(8)
    assert watch.seconds == {"total": 1, "denoise": 10, "decode": 4}


def test_a_part_nested_in_itself_counts_its_time_once():
    clock = FakeClock()
    watch = Stopwatch(clock)
    with watch.part("a"), watch.part("a"):
        clock.pass_seconds(3)
    assert watch.seconds == {"a": 3}


def test_an_exception_ends_its_parts():
    clock = FakeClock()
    watch = Stopwatch(clock)
    with pytest.raises(RuntimeError), watch.part("a"), watch.part("b"):
        clock.pass_seconds(2)
        raise RuntimeError
    with watch.part("a"):
        clock.pass_seconds(1)
    assert watch.seconds == {"a": 1, "b": 2}


def test_peak_memory_on_a_cpu_sees_a_large_allocation():
    before = peak_memory_mib("cpu")
    held = torch.ones(int(before) + 64, 2**18)  # rows of 1 MiB
    assert peak_memory_mib("cpu") >= held.shape[0]
