"""Probing xformers before it is chosen: it often imports but has no working kernel."""

from __future__ import annotations

from typing import Any

from gensift.errors import ConfigError, MissingExtraError


def probe_xformers(device: Any) -> str | None:
    """None when a one-head attention call works on `device`; otherwise the reason why not."""
    import torch

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
