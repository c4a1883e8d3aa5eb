"""Profiles: files that hold a calibrated cache and what it was calibrated on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from caches.config import CacheConfig
from caches.fingerprint import Fingerprint
from gensift.config import Config, from_dict, to_dict
from gensift.conversion import strict_json
from gensift.errors import ConfigError
from gensift.files import write_atomically
from gensift.protocols import JsonObject

FORMAT = "gensift-cache-1"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The content of a profile file.

    Attributes:
        cache: name of the kind of cache.
        fingerprint: what it was calibrated on.
        config: fields of the cache's config class.
        report: what calibration measured, for people to read.
    """

    cache: str
    fingerprint: Fingerprint
    config: JsonObject
    report: JsonObject

    @classmethod
    def of(cls, cache: str, config: CacheConfig, report: JsonObject) -> Profile:
        """That of a calibrated `config`, whose fingerprint stands on its own in the file.

        Raises:
            ConfigError: it has no fingerprint.
        """
        if config.fingerprint is None:
            raise ConfigError(
                f"This config of {cache} has no fingerprint, so that nobody could tell what its "
                "profile fits; give it that of the runs calibrated on "
                "(`caches.fingerprint.fingerprint_of`)."
            )
        fields = {key: value for key, value in to_dict(config).items() if key != "fingerprint"}
        return cls(cache=cache, fingerprint=config.fingerprint, config=fields, report=report)


def write_profile(path: str | Path, profile: Profile) -> None:
    """Write a profile; the file appears complete or not at all."""
    content = {"format": FORMAT, **to_dict(profile)}
    write_atomically(Path(path), (strict_json(content, indent=1) + "\n").encode())


def read_profile(path: str | Path, cache: str | None = None) -> Profile:
    """Read a profile, one of the kind `cache` if given.

    Raises:
        ConfigError: no such file, no profile, or one of another kind.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Cache profile {str(file)!r} cannot be read ({error}); give a file that `gensift "
            "calibrate` wrote."
        ) from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ConfigError(
            f"{str(file)!r} is no cache profile of the format {FORMAT}; give a file that `gensift "
            "calibrate` wrote."
        )
    try:
        profile = from_dict(Profile, {"report": {}, **content})
    except ConfigError as error:
        raise ConfigError(
            f"Cache profile {str(file)!r} is damaged: {error}", error.problems
        ) from error
    if cache is not None and profile.cache != cache:
        raise ConfigError(
            f"{str(file)!r} is a profile of {profile.cache!r}, not of {cache!r}; give that name."
        )
    return profile


def read_config(path: str | Path, cache: str, cls: type[Config]) -> Config:
    """The config in a profile of the kind `cache`, with its fingerprint.

    Raises:
        ConfigError: no such file, of another kind, or damaged.
    """
    profile = read_profile(path, cache)
    return from_dict(cls, {**profile.config, "fingerprint": to_dict(profile.fingerprint)})
