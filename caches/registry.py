"""All caches by name; other packages add theirs through the entry-point group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gensift.registry import Registry

if TYPE_CHECKING:
    from caches.cache import Cache

CACHES: Registry[type[Cache]] = Registry("cache", "gensift.caches")
CACHES.register("ertacache", "caches.ertacache.cache:ERTACache")
CACHES.register("bac", "caches.bac.cache:BAC")
