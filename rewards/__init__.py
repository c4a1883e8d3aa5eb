"""How a sample is judged: reward models, the Shapes verifier, and combinations of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.combine import CompositeReward, rank_sum, weighted_z_score
    from rewards.open_clip_score import OpenClipReward, load_clip_score
    from rewards.protocol import Reward, call_reward, reward_name, to_tensor
    from rewards.registry import REWARDS, load_reward
    from rewards.shapes import ShapesVerifierReward, shapes_clip

# Public name -> module. Resolved on first use: listing the names of rewards must not import torch.
_PUBLIC = {
    "CompositeReward": "combine",
    "rank_sum": "combine",
    "weighted_z_score": "combine",
    "OpenClipReward": "open_clip_score",
    "load_clip_score": "open_clip_score",
    "Reward": "protocol",
    "call_reward": "protocol",
    "reward_name": "protocol",
    "to_tensor": "protocol",
    "REWARDS": "registry",
    "load_reward": "registry",
    "ShapesVerifierReward": "shapes",
    "shapes_clip": "shapes",
}

__all__ = [
    "REWARDS",
    "CompositeReward",
    "OpenClipReward",
    "Reward",
    "ShapesVerifierReward",
    "call_reward",
    "load_clip_score",
    "load_reward",
    "rank_sum",
    "reward_name",
    "shapes_clip",
    "to_tensor",
    "weighted_z_score",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rewards' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rewards.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
