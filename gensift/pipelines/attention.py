"""Attention of our own models, through diffusers' dispatcher, and probing what it can choose.

Native is torch's scaled dot-product attention, and `set_attention_backend` of a model chooses
another for all that is not masked. xformers is probed first: it often imports but has no working
kernel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from gensift.denoising.modules import (
    AttentionBackendName,
    attention_backend,
    denoisers_of,
    dispatch_attention_fn,
    takes_attention_backend,
)
from gensift.errors import ConfigError, MissingExtraError
from gensift.protocols import Pipeline


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


def set_attention_backend(pipe: Pipeline, name: str, device: str) -> None:
    """Let every denoiser of a pipeline use an attention backend; other models keep theirs.

    Args:
        pipe: the pipeline.
        name: as diffusers knows it, such as native, flash or xformers.
        device: where the pipeline runs.

    Raises:
        ConfigError: the backend is unknown or does not run here, or a denoiser has no choice.
        MissingExtraError: xformers is asked for and not installed.
        UnsupportedPipelineError: no denoiser is found.
    """
    if name == "xformers":
        require_xformers(device)
    for denoiser in denoisers_of(pipe):
        try:
            # diffusers makes it the active one of the whole process; the block takes that back.
            with attention_backend():
                _set_backend_of(denoiser, name)
        except (ValueError, RuntimeError, ImportError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"Attention backend {name!r} cannot be used: {reason}") from error


def _set_backend_of(denoiser: Any, name: str) -> None:
    processors = getattr(denoiser, "attn_processors", {}).values()
    if getattr(denoiser, "uses_attention_dispatcher", False):
        # Our own models have no processors; they take the backend that is active for all.
        BackendDuringForward(denoiser, name)
    elif any(map(takes_attention_backend, processors)):
        denoiser.set_attention_backend(name)
    elif name == "xformers" and hasattr(denoiser, "enable_xformers_memory_efficient_attention"):
        denoiser.enable_xformers_memory_efficient_attention()
    elif name != "native":
        # UNets take the call and change nothing.
        raise ConfigError(
            f"{type(denoiser).__name__} has no choice of attention backend but native and "
            f"xformers; {name!r} was asked for."
        )


class BackendDuringForward:
    """Makes a backend the active one while a model runs, and the one before it active again."""

    def __init__(self, model: nn.Module, name: str) -> None:
        """Raise ValueError or RuntimeError where diffusers refuses the backend."""
        with attention_backend(name):
            pass
        self._name = name
        self._open: list[AbstractContextManager[None]] = []
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave, always_call=True)

    def _enter(self, model: nn.Module, args: object) -> None:
        block = attention_backend(self._name)
        block.__enter__()
        self._open.append(block)

    def _leave(self, model: nn.Module, args: object, output: object) -> None:
        self._open.pop().__exit__(None, None, None)
