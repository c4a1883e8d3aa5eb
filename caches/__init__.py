"""How compute is saved: feature caches, calibrated once and attached in one line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caches.cache import Cache, CacheReport
    from caches.enable import disable_cache, enable_cache
    from caches.ertacache.config import ERTACacheConfig
    from caches.registry import CACHES

PART_OF = "gensift"

# Public name -> module. Resolved on first use: listing the names of caches must not import torch.
_PUBLIC = {
    "Cache": "cache",
    "CacheReport": "cache",
    "enable_cache": "enable",
    "disable_cache": "enable",
    "ERTACacheConfig": "ertacache.config",
    "CACHES": "registry",
}

__all__ = [
    "CACHES",
    "Cache",
    "CacheReport",
    "ERTACacheConfig",
    "disable_cache",
    "enable_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'caches' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"caches.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value
