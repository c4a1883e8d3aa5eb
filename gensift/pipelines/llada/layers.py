"""One layer of LLaDA: a Llama layer that looks both ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.pipelines.attention import attend

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each `(rows, positions, heads, head_dim)`."""


class LLaDALayer(nn.Module):
    """Pre-norm attention and SwiGLU; names as in the published checkpoints.

    `project`, `finish` are the two halves around attention, so that caches can keep what lies
    between them.
    """

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, hidden: int, eps: float):
        super().__init__()
        self.head_dim = width // num_heads
        kv_width = num_kv_heads * self.head_dim
        self.attn_norm = nn.RMSNorm(width, eps=eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_norm = nn.RMSNorm(width, eps=eps)
        self.ff_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def project(self, hidden: Tensor, rotary: Tensor) -> Heads:
        """Queries, keys and values of `hidden` `(rows, positions, width)`, turned by position."""
        normed = self.attn_norm(hidden)
        query, key, value = (
            torch.unflatten(project(normed), -1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(query, rotary), rotate(key, rotary), value

    def finish(self, hidden: Tensor, context: Tensor) -> Tensor:
        """Add what attention found, `(rows, positions, width)`, and the feed-forward part."""
        hidden = hidden + self.attn_out(context)
        normed = self.ff_norm(hidden)
        fed: Tensor = self.ff_out(silu(self.ff_proj(normed)) * self.up_proj(normed))
        return hidden + fed

    def forward(self, hidden: Tensor, rotary: Tensor, mask: Tensor | None = None) -> Tensor:
        """The whole layer on `(rows, positions, width)`; `mask` is true where a query may look."""
        query, key, value = self.project(hidden, rotary)
        return self.finish(hidden, attend(query, key, value, mask))


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """Cosines and sines, float32 `(2, rows, positions, 1, head_dim)`.

    Args:
        positions: int64 `(rows, positions)`.
        head_dim: width of a head; its first and second half are paired.
        theta: base of the wavelengths.
    """
    powers = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[..., None].float() * theta**-powers
    angles = torch.cat([angles, angles], dim=-1)[:, :, None]
    return torch.stack([angles.cos(), angles.sin()])


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Turn `(rows, positions, heads, head_dim)` by `rotary_table`, in float32."""
    cosine, sine = rotary
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    turned: Tensor = wide * cosine + torch.cat([-second, first], dim=-1) * sine
    return turned.to(heads.dtype)
