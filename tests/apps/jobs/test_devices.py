"""Which device each process takes, and where rewards judge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.threads import InThread, Meeting

from apps.jobs.devices import load_reward_on, own_device
from gensift.errors import DeviceError
from rewards.offload import OffloadedReward
from samplers.exchange import ALONE

SECOND_OF_TWO = InThread(1, Meeting(2))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs, by torch's word; holds which one was made current."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_the_gpu_of_its_number(name: str, gpus: list[int]) -> None:
    assert own_device(name, SECOND_OF_TWO) == "cuda:1"
    assert gpus == [1]


def test_a_single_process_and_a_named_gpu_are_left_alone(gpus: list[int]) -> None:
    assert own_device("auto", ALONE) == "cuda"
    assert own_device("cuda:0", SECOND_OF_TWO) == "cuda:0"
    assert own_device("cpu", SECOND_OF_TWO) == "cpu"
    assert gpus == []


def test_more_processes_than_gpus_are_refused(gpus: list[int]) -> None:
    with pytest.raises(DeviceError, match=r"2 GPU\(s\) are here for 3 or more processes"):
        own_device("auto", InThread(2, Meeting(3)))


def test_a_reward_is_loaded_where_it_judges_unless_it_is_offloaded() -> None:
    plain: Any = load_reward_on("cpu", "shapes-clip", {}, is_offloaded=False)
    moved = load_reward_on("cpu", "shapes-clip", {}, is_offloaded=True)
    assert next(plain.model.parameters()).device.type == "cpu"
    assert isinstance(moved, OffloadedReward) and moved.name == "shapes-clip"


def test_offloading_from_the_cpu_is_refused(generate: Any) -> None:
    error = generate("--prompt", "a", "--sampler", "fake", "--reward-offload").error
    assert "they judge on the cpu; leave it out" in error


def test_an_absent_device_of_rewards_is_refused(generate: Any) -> None:
    error = generate("--prompt", "a", "--sampler", "fake", "--reward-device", "cuda:7").error
    assert "'cuda:7' was asked for but is absent" in error
