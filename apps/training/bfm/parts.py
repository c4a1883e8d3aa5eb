"""Finished parts of pipelines, loaded by folder, zoo name or hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gensift.errors import ConfigError
from gensift.hub import foreign_errors, is_hub_id, is_offline
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
    advice = f"Give a folder or hub id of {wanted}, or of a pipeline that has one"
    with foreign_errors(f"{source!r} as {part}", advice, place):
        config, where = _find(next(iter(classes.values())), place, part)
        name = config.get("_class_name")
        if name not in classes:
            raise ConfigError(f"{source!r} holds a {name}; give a folder of {wanted}.")
        return classes[name].from_pretrained(
            place,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=is_offline(place),
            **where,
        )


def _find(cls: Any, place: str, part: str) -> tuple[Any, dict[str, str]]:
    local = {"local_files_only": is_offline(place)}
    try:
        return cls.load_config(place, **local), {}
    except OSError:
        return cls.load_config(place, subfolder=part, **local), {"subfolder": part}
