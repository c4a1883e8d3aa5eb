"""On which device a process draws, and where its rewards score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gensift.errors import DeviceError
from gensift.protocols import JsonObject
from samplers.exchange import Exchange

if TYPE_CHECKING:
    from rewards.protocol import Reward


def own_device(name: str, exchange: Exchange) -> str:
    """The device `name`; of several processes on a machine each takes the GPU of its number.

    Raises:
        DeviceError: it is absent, or there are more processes than GPUs.
    """
    from gensift.pipelines.loading import resolve_device

    device = resolve_device(name)
    if device != "cuda" or exchange.size == 1:
        return device
    import torch

    if exchange.local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"{torch.cuda.device_count()} GPU(s) are here for {exchange.local_rank + 1} or more "
            "processes on this machine; start one per GPU, or name one for all: --device cuda:0."
        )
    torch.cuda.set_device(exchange.local_rank)
    return f"cuda:{exchange.local_rank}"


def check_reward_offload(device: str, *, is_asked: bool) -> None:
    """Refuse to move rewards off the CPU.

    Raises:
        DeviceError: they would judge there.
    """
    if is_asked and device == "cpu":
        raise DeviceError(
            "--reward-offload moves rewards off a GPU between calls, but they judge on the cpu; "
            "leave it out."
        )


def load_reward_on(device: str, spec: str, options: JsonObject, *, is_offloaded: bool) -> Reward:
    """Load a reward that judges on `device`, and stays there unless it is offloaded."""
    from rewards.registry import load_reward

    if not is_offloaded:
        return load_reward(spec, device=device, **options)
    from rewards.offload import offload_reward

    return offload_reward(load_reward(spec, device="cpu", **options), device)
