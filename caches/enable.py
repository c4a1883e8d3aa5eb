"""Switching a cache on and off on a pipeline that somebody holds already."""

from __future__ import annotations

from pathlib import Path

from caches.cache import Cache, cache_of
from caches.config import CacheConfig
from caches.profile import read_config, read_profile
from caches.registry import CACHES, method_of
from gensift.errors import ConfigError
from gensift.pipelines.loading import model_folder_of
from gensift.protocols import Pipeline

PROFILES = "caches"
"""Folder of the profiles in a model's folder."""


def enable_cache(pipe: Pipeline, cache: str | Path | CacheConfig) -> Cache:
    """Let a calibrated cache answer some of a pipeline's denoiser evaluations, until disabled.

        gensift.enable_cache(pipe, "profile.json")
        images = pipe("a red circle").images
        gensift.disable_cache(pipe)

    Args:
        pipe: a diffusers pipeline whose denoiser is declared.
        cache: a profile file that `gensift calibrate` wrote; a config such as `ERTACacheConfig`; or
            the name of a cache ("ertacache") of which a profile comes with the pipeline's model, as
            it does in the zoo.

    Returns:
        The attached cache, whose `report()` says what it did.

    Raises:
        ConfigError: there is no such profile, it belongs to another model, or a cache is on.
        UnsupportedPipelineError: the denoiser is not declared, or has nothing to cache.
    """
    made = make_cache(pipe, cache)
    made.attach(pipe)
    return made


def disable_cache(pipe: Pipeline) -> None:
    """Take the cache off a pipeline, which is then as it was before.

    Raises:
        ConfigError: there is none, or a search is at work on the pipeline.
    """
    cache = cache_of(pipe)
    if cache is None:
        raise ConfigError(f"{type(pipe).__name__} has no cache; enable_cache puts one on.")
    cache.detach()


def make_cache(pipe: Pipeline, cache: str | Path | CacheConfig) -> Cache:
    """The cache that `enable_cache` would attach; see there."""
    if not isinstance(cache, str | Path):
        return method_of(cache)(cache)
    if isinstance(cache, str) and cache in CACHES.names():
        return _of_profile(profile_of_model(pipe, cache))
    return _of_profile(_profile_file(cache))


def check_cache(cache: str) -> None:
    """Refuse, before a model is loaded, a profile file that cannot be used with any.

    Raises:
        ConfigError: there is no such file, or it is damaged.
    """
    if cache not in CACHES.names():
        _of_profile(_profile_file(cache))


def _profile_file(cache: str | Path) -> Path:
    path = Path(cache)
    if not path.is_file():
        raise ConfigError(
            f"Cache {str(cache)!r} is neither a profile file nor one of "
            f"{', '.join(CACHES.names())}; make a profile with `gensift calibrate`."
        )
    return path


def _of_profile(path: Path) -> Cache:
    method = CACHES.get(read_profile(path).cache)
    return method(read_config(path, method.name, method.config_class))


def profile_of_model(pipe: Pipeline, name: str) -> Path:
    """The profile of the cache `name` in the folder of the pipeline's model.

    Raises:
        ConfigError: the model comes without one.
    """
    folder = model_folder_of(pipe)
    path = None if folder is None else folder / PROFILES / f"{name}.json"
    if path is None or not path.is_file():
        raise ConfigError(
            f"No profile of {name} comes with this model; make one with `gensift calibrate --cache "
            f"{name}` and give its file."
        )
    return path
