"""ERTACache as it is registered."""

from __future__ import annotations

from caches.ertacache.cache import ERTACache
from caches.ertacache.calibration import calibrate
from caches.ertacache.config import ERTACacheConfig
from caches.ertacache.options import ERTACacheOptions
from caches.method import CacheMethod

METHOD = CacheMethod(
    name="ertacache",
    config_class=ERTACacheConfig,
    cache_class=ERTACache,
    options_class=ERTACacheOptions,
    calibrate=calibrate,
)
