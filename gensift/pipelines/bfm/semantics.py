"""Conditions of single tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


def semantic_condition(condition: Tensor, features: Tensor) -> Tensor:
    """Time and class beside each token's feature, activated: `(rows, tokens, 2 * width)`."""
    everywhere = condition[:, None].expand_as(features).to(features.dtype)
    return silu(torch.cat([everywhere, features], dim=-1))
