"""How a sample is judged: reward models, the Shapes verifier, and combinations of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewards.aesthetic import AestheticReward, load_aesthetic
    from rewards.combine import CompositeReward, rank_sum, weighted_z_score
    from rewards.hpsv2 import load_hpsv2, load_hpsv21
    from rewards.imagereward import ImageReward, load_imagereward
    from rewards.offload import offload_reward
    from rewards.open_clip_score import OpenClipReward, load_clip_score
    from rewards.pickscore import load_pickscore
    from rewards.protocol import Reward, call_reward, reward_name, to_tensor
    from rewards.registry import REWARDS, load_reward
    from rewards.shapes import ShapesVerifierReward, shapes_clip

PART_OF = "gensift"

# Public name -> module. Resolved on first use: listing the names of rewards must not import torch.
_PUBLIC = {
    "AestheticReward": "aesthetic",
    "load_aesthetic": "aesthetic",
    "CompositeReward": "combine",
    "rank_sum": "combine",
    "weighted_z_score": "combine",
    "load_hpsv2": "hpsv2",
    "load_hpsv21": "hpsv2",
    "ImageReward": "imagereward",
    "load_imagereward": "imagereward",
    "OpenClipReward": "open_clip_score",
    "load_clip_score": "open_clip_score",
    "offload_reward": "offload",
    "load_pickscore": "pickscore",
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
    "AestheticReward",
    "CompositeReward",
    "ImageReward",
    "OpenClipReward",
    "Reward",
    "ShapesVerifierReward",
    "call_reward",
    "load_aesthetic",
    "load_clip_score",
    "load_hpsv2",
    "load_hpsv21",
    "load_imagereward",
    "load_pickscore",
    "load_reward",
    "offload_reward",
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
