"""All modalities by name; other packages add theirs through the entry-point group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from apps.modalities.base import Modality
from gensift.errors import MissingExtraError, UnsupportedPipelineError
from gensift.protocols import Pipeline
from gensift.registry import Registry

AnyModality: TypeAlias = Modality[Any]
"""A modality, whatever its samples are."""

PICTURES = "image"
"""The kind that commands are for which offer no choice: calibrating, recording, tuning."""

MODALITIES: Registry[AnyModality] = Registry(
    "modality", "gensift.modalities", check=lambda found: isinstance(found, Modality)
)
MODALITIES.register(PICTURES, "apps.modalities.picture.modality:PICTURE")
MODALITIES.register("text", "apps.modalities.text.modality:TEXT")
MODALITIES.register("action", "apps.modalities.action.modality:ACTION")


def importable() -> Iterator[AnyModality]:
    """All modalities but those that lack what they import, of which nothing can be here either."""
    for name in MODALITIES.names():
        try:
            yield MODALITIES.get(name)
        except MissingExtraError:
            continue


def check_pipeline(pipeline: Pipeline, model: str, modality: AnyModality) -> None:
    """Refuse to make samples of one kind by a model of another.

    Raises:
        UnsupportedPipelineError: another modality claims the pipeline.
    """
    if modality.claims(pipeline):
        return
    for other in importable():
        if other is not modality and other.claims(pipeline):
            raise UnsupportedPipelineError(other.refusal(model, modality.name))
