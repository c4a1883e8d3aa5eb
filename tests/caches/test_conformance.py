"""What every cache promises, on every supported family of pipelines.

A cache that is registered without a config here fails the first test.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from helpers.cache_conformance import CacheConformance
from helpers.cached_runs import VARIANTS, config_of, reference, units_reused

from caches.config import CacheConfig
from caches.registry import CACHES

WITHOUT_BODY = ("sd15", "sdxl")


def test_every_registered_cache_takes_part() -> None:
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(CACHES.names())


class TestOurs(CacheConformance):
    """The caches of this project, each of their variants."""

    variants = VARIANTS

    def config_of(self, variant: str, pipe: Any, updates: Sequence[int]) -> CacheConfig:
        found: CacheConfig = config_of(variant, pipe, updates)
        return found

    def units_reused(self, variant: str, pipe: Any) -> int:
        return units_reused(variant, pipe)

    def fits(self, family: str, variant: str) -> bool:
        return variant != "ertacache-body" or family not in WITHOUT_BODY

    def reference(
        self, pipe: Any, variant: str, updates: Sequence[int], calls_per_step: int
    ) -> AbstractContextManager[Any]:
        return reference(pipe, variant, updates, calls_per_step)
