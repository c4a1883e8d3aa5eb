"""Transformer blocks of flow models, modulated from outside (AdaLN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gensift.pipelines.attention import attend
from gensift.pipelines.next_scale.attention import rotate
from gensift.pipelines.next_scale.blocks import NORM_EPS, FeedForward, modulated

FEED_FORWARD_RATIO = 4


class Attention(nn.Module):
    """Self-attention with normed, rotated queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // num_heads, eps=NORM_EPS)
        self.key_norm = nn.RMSNorm(width // num_heads, eps=NORM_EPS)
        self.to_out = nn.Linear(width, width)

    def forward(self, hidden: Tensor, rotary: Tensor) -> Tensor:
        """`hidden` `(rows, tokens, width)`; `rotary` angles `(tokens, head_dim / 2)`."""
        qkv = self.to_qkv(hidden)
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query = rotate(self.query_norm(query), rotary).to(value.dtype)
        key = rotate(self.key_norm(key), rotary).to(value.dtype)
        result: Tensor = self.to_out(attend(query, key, value, None))
        return result


class Block(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated from outside."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads)
        self.feed_forward = FeedForward(width, FEED_FORWARD_RATIO * width)

    def forward(self, hidden: Tensor, modulation: Tensor, rotary: Tensor) -> Tensor:
        """`hidden` `(rows, n, width)`; `modulation` `(rows, n or 1, 6 * width)`.

        The six are shift, scale and gate of the attention, then those of the feed-forward.
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        attended = self.attention(modulated(hidden, scale_a, shift_a), rotary)
        hidden = hidden + (attended * gate_a).to(hidden.dtype)
        fed = self.feed_forward(modulated(hidden, scale_f, shift_f))
        result: Tensor = hidden + (fed * gate_f).to(hidden.dtype)
        return result


class CheckpointedLayers(nn.Module):
    """Layers whose insides training can compute again in the backward pass, to save memory.

    It is off until diffusers' `enable_gradient_checkpointing` of the whole model.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]

    def _run(self, layer: Callable[..., Tensor], *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *inputs)
        return layer(*inputs)


class BlockStack(CheckpointedLayers):
    """Blocks in a row, each with a modulation of its own."""

    def __init__(
        self, depth: int, width: int, num_heads: int, modulation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(depth))
        self.modulations = nn.ModuleList(modulation() for _ in range(depth))

    def forward(
        self, tokens: Tensor, condition: Tensor, rotary: Tensor, common: Tensor | None = None
    ) -> Tensor:
        """`tokens` `(rows, n, width)`.

        Args:
            tokens: residual stream.
            condition: what each modulation reads, activated: `(rows, n or 1, channels)`.
            rotary: angles `(n, head_dim / 2)`.
            common: added to every block's modulation: `(rows, n or 1, 6 * width)`.
        """
        for block, modulation in zip(self.blocks, self.modulations, strict=True):
            tokens = self._run(_modulated, block, modulation, tokens, condition, rotary, common)
        return tokens


def _modulated(
    block: nn.Module,
    modulation: nn.Module,
    tokens: Tensor,
    condition: Tensor,
    rotary: Tensor,
    common: Tensor | None,
) -> Tensor:
    own = modulation(condition)
    result: Tensor = block(tokens, own if common is None else own + common, rotary)
    return result


class BFMSegment(BlockStack):
    """The velocity blocks of one segment."""
