"""Attention of our own models, through diffusers' dispatcher, and probing what it can choose.

Native is torch's scaled dot-product attention, and `set_attention_backend` of a model chooses
another for all that is not masked. xformers is probed first: it often imports but has no working
kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gensift.denoising.modules import AttentionBackendName, dispatch_attention_fn
from gensift.errors import ConfigError, MissingExtraError


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """Attention on `(rows, positions, heads, head_dim)`; heads are joined in the result.

    With fewer key heads than query heads each serves a group of these. `mask` is true where a query
    may look, broadcast to `(rows, heads, queries, keys)`.
    """
    is_grouped = key.shape[2] != query.shape[2]
    arguments: dict[str, Any] = {"attn_mask": mask, "scale": scale, "enable_gqa": is_grouped}
    if mask is not None:
        # Other backends refuse a mask, or (xformers) add its booleans as numbers.
        arguments["backend"] = AttentionBackendName.NATIVE
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # In bfloat16 the backward pass takes three times as long on a CPU.
        with torch.autocast("cpu", enabled=False):
            wide = (part.float() for part in (query, key, value))
            return dispatch_attention_fn(*wide, **arguments).flatten(2)  # type: ignore[no-any-return]
    return dispatch_attention_fn(query, key, value, **arguments).flatten(2)  # type: ignore[no-any-return]


def probe_xformers(device: Any) -> str | None:
    """None when a one-head attention call works on `device`; otherwise the reason why not."""
    try:
        from xformers.ops import memory_efficient_attention
    except (ImportError, OSError) as error:
        return f"it cannot be imported ({' '.join(str(error).split())[:120]})"
    query = torch.zeros(1, 8, 1, 32, device=device)
    try:
        memory_efficient_attention(query, query, query)
    except (NotImplementedError, RuntimeError) as error:
        return f"its kernels do not run on {device} ({' '.join(str(error).split())[:120]})"
    return None


def require_xformers(device: Any) -> None:
    """Refuse xformers where it does not work.

    Raises:
        MissingExtraError: it is not installed.
        ConfigError: it has no kernel for this device.
    """
    reason = probe_xformers(device)
    if reason is None:
        return
    kind = MissingExtraError if "imported" in reason else ConfigError
    raise kind(f"Attention backend 'xformers' cannot be used: {reason}; use 'native'.")
