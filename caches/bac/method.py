"""BAC as it is registered."""

from __future__ import annotations

from caches.bac.cache import BAC
from caches.bac.calibration import calibrate
from caches.bac.config import BACConfig
from caches.bac.options import BACOptions
from caches.method import CacheMethod

METHOD = CacheMethod(
    name="bac",
    config_class=BACConfig,
    cache_class=BAC,
    options_class=BACOptions,
    calibrate=calibrate,
)
