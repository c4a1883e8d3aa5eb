"""All cache methods by name; other packages add theirs through the entry-point group."""

from __future__ import annotations

import importlib

from caches.method import AnyCacheMethod, CacheMethod
from caches.options import CalibrationOptions
from gensift.errors import ConfigError, GensiftError
from gensift.registry import Registry

DEFAULT_METHOD = "ertacache"
"""Of calibrations that do not say which."""

CACHES: Registry[AnyCacheMethod] = Registry(
    "cache method", "gensift.caches", check=lambda found: isinstance(found, CacheMethod)
)
CACHES.register(
    "ertacache",
    "caches.ertacache.method:METHOD",
    summary="Reuses whole denoiser evaluations.",
    config="caches.ertacache.config:ERTACacheConfig",
    options="caches.ertacache.options:ERTACacheOptions",
)
CACHES.register(
    "bac",
    "caches.bac.method:METHOD",
    summary="Reuses the outputs of single sub-blocks, each by its own schedule.",
    config="caches.bac.config:BACConfig",
    options="caches.bac.options:BACOptions",
)


def options_class_of(name: str) -> type[CalibrationOptions]:
    """The class of a method's calibration options; of those that tell where, without torch.

    Raises:
        UnknownNameError: no method has that name.
        GensiftError: the method cannot be imported, or is none.
    """
    place = CACHES.about(name).get("options")
    if place is None:
        found: type[CalibrationOptions] = CACHES.get(name).options_class
        return found
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return found


def method_of(given: object) -> AnyCacheMethod:
    """The method whose config or calibration options `given` are.

    Raises:
        ConfigError: there is none.
    """
    broken = []
    for name in CACHES.names():
        try:
            method = CACHES.get(name)
        except GensiftError as error:  # one that is of no use hides no other
            broken.append(str(error))
            continue
        if isinstance(given, (method.config_class, method.options_class)):
            return method
    raise ConfigError(
        f"{type(given).__name__} is no cache config; give a profile file, a config of one of "
        f"{', '.join(CACHES.names())}, or such a name." + "".join(f" {text}" for text in broken)
    )
