"""What a cache method is: one object that says how it is configured, made and calibrated.

Imports nothing heavy, so that a registry of methods may be read by a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from caches.config import CacheConfig
from caches.options import CalibrationOptions, Prompts

if TYPE_CHECKING:
    from caches.cache import Cache
    from caches.evaluation import Denoising

ConfigT = TypeVar("ConfigT", bound=CacheConfig)
OptionsT = TypeVar("OptionsT", bound=CalibrationOptions)

OnStage: TypeAlias = Callable[[str], None]
"""Told what is being done, in a few words."""


@dataclass(frozen=True)
class Calibrated(Generic[ConfigT]):
    """What the calibration of a method found.

    Attributes:
        config: of the cache, with a fingerprint.
        predicted_speedup: of the denoiser, from its parts.
        variants: errors of what else was tried, on the prompts it was fitted to, by name.
    """

    config: ConfigT
    predicted_speedup: float
    variants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CacheMethod(Generic[ConfigT, OptionsT]):
    """A way to cache, as `caches.registry` holds it.

    Attributes:
        name: it is registered under, and profiles carry.
        config_class: of its caches; a frozen dataclass.
        cache_class: makes a cache of a config.
        options_class: options of its calibration, those that all have among them.
        calibrate: finds a config: `calibrate(denoising, prompts, options, on_stage)` may run
            `denoising` on the prompts as often as it likes; the figures of a profile are measured
            afterwards, on other prompts.
    """

    name: str
    config_class: type[ConfigT]
    cache_class: Callable[[ConfigT], Cache]
    options_class: type[OptionsT]
    calibrate: Callable[[Denoising, Prompts, OptionsT, OnStage], Calibrated[ConfigT]]

    def __call__(self, config: ConfigT) -> Cache:
        """A cache of that config, on no pipeline yet."""
        return self.cache_class(config)


AnyCacheMethod: TypeAlias = CacheMethod[Any, Any]
"""A method whose config and options only itself knows."""
