"""Self- and cross-attention of next-scale transformers.

All attention goes through diffusers' dispatcher: native is torch's scaled dot-product attention,
and `set_attention_backend` of the model chooses another for all that is not masked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from gensift.pipelines.attention import attend
from gensift.pipelines.next_scale.kv_cache import LayerCache

MAX_LOG_SCALE = math.log(100)
START_LOG_SCALE = math.log(4)


class SelfAttention(nn.Module):
    """Attention to the own scale and all coarser ones.

    With `cosine` queries and keys have norm 1 and each head learns how sharp it is; rotary angles,
    where there are any, turn both after that, and keys are cached as they are then.
    """

    def __init__(self, width: int, num_heads: int, *, cosine: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.cosine = cosine
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.to_out = nn.Linear(width, width)
        if cosine:
            self.log_scale = nn.Parameter(torch.full((num_heads,), START_LOG_SCALE))

    def forward(
        self,
        hidden: Tensor,
        rotary: Tensor | None = None,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`hidden` `(rows, n, width)`; `rotary` `(n, head_dim / 2)` angles.

        With a `cache` the positions are those that follow what it holds; without one they are
        all there are, and `mask` `(n, n)` says who may see whom.
        """
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = linear(hidden, self.to_qkv.weight, bias)
        query, key, value = torch.unflatten(qkv, -1, (3, self.num_heads, -1)).unbind(2)
        scale = 0.25 / math.sqrt(query.shape[-1])
        if self.cosine:
            sharpness = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()[:, None]
            query = normalize(query.float(), dim=-1) * sharpness
            key = normalize(key.float(), dim=-1)
            scale = 1.0
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        query, key = query.to(value.dtype), key.to(value.dtype)
        if cache is not None:
            key, value = cache.extend(key, value)
        output: Tensor = self.to_out(attend(query, key, value, mask, scale))
        return output


def rotate(vectors: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (2j, 2j + 1) of `(rows, n, heads, head_dim)` by `(n, head_dim / 2)`."""
    even, odd = torch.unflatten(vectors, -1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class CrossAttention(nn.Module):
    """Attention of picture tokens to the text."""

    def __init__(self, width: int, num_heads: int, text_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_query = nn.Linear(width, width)
        self.to_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.to_out = nn.Linear(width, width)

    def keys_and_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of `text` `(prompts, length, text_width)`: `(prompts, length, heads, head_dim)` each.

        They depend on nothing but the text, so once per prompt is enough.
        """
        bias = torch.cat([torch.zeros_like(self.value_bias), self.value_bias])
        found = linear(text, self.to_kv.weight, bias)
        keys, values = torch.unflatten(found, -1, (2, self.num_heads, -1)).unbind(2)
        return keys, values

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`hidden` `(rows, n, width)`; `mask` `(rows, 1, 1, length)`, or None without padding."""
        query = self.to_query(hidden).unflatten(-1, (self.num_heads, -1))
        scale = 1 / math.sqrt(query.shape[-1])
        output: Tensor = self.to_out(attend(query, keys, values, mask, scale))
        return output
