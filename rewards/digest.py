"""Which weights a reward computes with, in a few digits."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from rewards.offload import reward_modules


def weights_digest(reward: Any) -> str:
    """16 hex digits that stand for the weights of `reward`, on whatever device they are.

    Those of the networks among its attributes; rewards without any share one digest. For
    noise-aware weights the noise levels that they were trained for count, too.
    """
    digest = hashlib.sha256()
    for module in reward_modules(reward):
        digest.update(str(getattr(module, "sigmas", ())).encode())
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            values = value.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
