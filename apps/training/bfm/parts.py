"""Finished parts of pipelines, loaded by folder, zoo name or hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from gensift.errors import ConfigError
from gensift.pipelines.loading import is_hub_id
from gensift.zoo.catalog import ZOO, model_folder


def load_part(source: str, part: str, classes: Mapping[str, Any]) -> Any:
    """A model in float32, from a folder or hub id of its own or of a pipeline that has it.

    Args:
        source: folder, hub id, or zoo name.
        part: name of the model in pipelines, "vae" or "transformer".
        classes: that it may be of, by name.

    Raises:
        ConfigError: there is none, or one of another class.
    """
    place = str(model_folder(source)) if source in ZOO else source
    wanted = " or ".join(classes)
    if not Path(place).is_dir() and not is_hub_id(place):
        raise ConfigError(
            f"{source!r} is neither a folder nor a zoo model nor a hub id (owner/name); give one "
            f"of {wanted}, or of a pipeline that has one."
        )
    try:
        config, where = _find(next(iter(classes.values())), place, part)
        name = config.get("_class_name")
        if name not in classes:
            raise ConfigError(f"{source!r} holds a {name}; give a folder of {wanted}.")
        return classes[name].from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, **where
        )
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ConfigError(
            f"{source!r} cannot be loaded as {part}: {reason}. Give a folder or hub id of {wanted},"
            " or of a pipeline that has one."
        ) from error


def _find(cls: Any, place: str, part: str) -> tuple[Any, dict[str, str]]:
    try:
        return cls.load_config(place), {}
    except OSError:
        return cls.load_config(place, subfolder=part), {"subfolder": part}
