"""Transformer blocks of next-scale models, modulated by the condition (AdaLN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from gensift.pipelines.next_scale.attention import CrossAttention, SelfAttention
from gensift.pipelines.next_scale.kv_cache import LayerCache

NORM_EPS = 1e-6
MODULATIONS = 6
"""Per block, in this order: two gates, two scales, two shifts (attention, feed-forward)."""


class FeedForward(nn.Module):
    """Two layers with a tanh-approximated GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(rows, n, width)`, before and after."""
        output: Tensor = self.outer(gelu(self.inner(hidden), approximate="tanh"))
        return output


class Block(nn.Module):
    """Self-attention, cross-attention where there is a text, feed-forward."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        feed_forward: int,
        *,
        cosine: bool = True,
        text_width: int | None = None,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, num_heads, cosine=cosine)
        self.feed_forward = FeedForward(width, feed_forward)
        if text_width is not None:
            self.cross_norm = nn.LayerNorm(width, eps=NORM_EPS)
            self.cross_attention = CrossAttention(width, num_heads, text_width)

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        *,
        text: tuple[Tensor, Tensor] | None = None,
        text_mask: Tensor | None = None,
        rotary: Tensor | None = None,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`hidden` `(rows, n, width)`; `modulation` `(rows, 6, width)`; `text` keys and values."""
        gate_a, gate_f, scale_a, scale_f, shift_a, shift_f = modulation[:, None].unbind(2)
        attended = self.attention(modulated(hidden, scale_a, shift_a), rotary, cache, mask)
        hidden = hidden + (attended * gate_a).to(hidden.dtype)
        if text is not None:
            normed = norm_in_float32(hidden, self.cross_norm.weight, self.cross_norm.bias)
            hidden = hidden + self.cross_attention(normed, *text, text_mask)
        fed = self.feed_forward(modulated(hidden, scale_f, shift_f))
        output: Tensor = hidden + (fed * gate_f).to(hidden.dtype)
        return output


class HeadNorm(nn.Module):
    """Norm before the head, its scale and shift chosen by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.condition = nn.Linear(width, 2 * width)

    def modulation(self, condition: Tensor) -> Tensor:
        """`(conditions, width)`, after its activation, to `(conditions, 2, width)`."""
        output: Tensor = self.condition(condition).unflatten(-1, (2, -1))
        return output

    def forward(self, hidden: Tensor, modulation: Tensor) -> Tensor:
        """`hidden` `(rows, n, width)`; `modulation` `(rows, 2, width)`: scale, shift."""
        scale, shift = modulation[:, None].unbind(2)
        return modulated(hidden, scale, shift)


def norm_in_float32(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm of `(rows, n, width)`; in half precision a wide row's mean would be too coarse."""
    wide = hidden.float()
    return layer_norm(wide, wide.shape[-1:], weight.float(), bias.float(), NORM_EPS).to(
        hidden.dtype
    )


def modulated(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm of `(rows, tokens, width)`, then `* (1 + scale) + shift`, in float32."""
    normed = layer_norm(hidden.float(), hidden.shape[-1:], eps=NORM_EPS)
    return torch.addcmul(shift.float(), normed, 1 + scale.float()).to(hidden.dtype)
