"""Figures of `shapes-bfm` and of the dense `shapes-sit` that it is compared with."""

from __future__ import annotations

from dataclasses import asdict

from apps.training.evaluation.classes import ClassScorer, draw_classes
from gensift.pipelines.bfm.settings import FeatureMode
from gensift.pipelines.loading import load_pipeline
from gensift.protocols import JsonObject, Pipeline


def evaluate() -> JsonObject:
    """Figures of the embedded `shapes-bfm` in each feature mode, at its default settings."""
    return _figures("shapes-bfm", ("full", "frn", "hold"))


def evaluate_dense() -> JsonObject:
    """Figures of the embedded `shapes-sit` at its default settings."""
    return _figures("shapes-sit", ("full",))


def _figures(name: str, modes: tuple[FeatureMode, ...]) -> JsonObject:
    pipe: Pipeline = load_pipeline(name)
    scorer = ClassScorer()
    return {mode: _of_mode(pipe, scorer, mode) for mode in modes}


def _of_mode(pipe: Pipeline, scorer: ClassScorer, mode: FeatureMode) -> dict[str, float]:
    drawn = draw_classes(pipe, feature_mode=mode)
    macs = pipe.transformer.step_macs.of_run(drawn.evaluations) / len(drawn.pictures)
    return asdict(scorer.score(drawn.pictures)) | {"mmacs_per_picture": macs / 1e6}
