"""How well class-conditional generators draw single objects of the Shapes world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import trange

from apps.training.bfm.features import ShapesClipFeatures
from apps.training.evaluation.frechet import frechet_distance, shapes_features
from apps.training.zoo.shapes_classes import CLASSES, draw_pictures
from gensift.pipelines.loading import call_defaults
from gensift.protocols import Pipeline
from gensift.randomness import candidate_seed, make_generators
from gensift.zoo.shapes.grammar import parse
from gensift.zoo.shapes.verifier import is_true

PER_CLASS = 100
"""Pictures of each class that figures are computed from."""
REFERENCE_PER_CLASS = 400
REFERENCE_SEED = 7919
"""Of rendered pictures that no recipe draws."""
_BATCH = 120

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """Pictures of all classes in turn.

    Attributes:
        pictures: uint8 `(count, 64, 64, 3)`; number `i` is of class `i` modulo their number.
        evaluations: rows that went through "trunk", "frn" and "stack" for all of them.
    """

    pictures: Pictures
    evaluations: dict[str, int]


@dataclass(frozen=True)
class ClassScore:
    """Figures of a set of pictures.

    Attributes:
        frechet: distance to rendered pictures, in the features of `shapes-clip`; lower is better.
        verified: share of the pictures that show their class and nothing else.
    """

    frechet: float
    verified: float


class ClassScorer:
    """Compares pictures with rendered ones and with their classes."""

    def __init__(self, reference_per_class: int = REFERENCE_PER_CLASS) -> None:
        self._encoder = ShapesClipFeatures.load().model
        self._reference = self.features(rendered(reference_per_class, REFERENCE_SEED))

    def features(self, pictures: Pictures) -> Tensor:
        """The features of pictures, float32 `(pictures, channels)`."""
        return shapes_features(self._encoder, pictures)

    def score(self, pictures: Pictures) -> ClassScore:
        """Judge pictures of all classes in turn."""
        right = [
            is_true(picture, parse(CLASSES[index % len(CLASSES)]))
            for index, picture in enumerate(pictures)
        ]
        distance = frechet_distance(self.features(pictures), self._reference)
        return ClassScore(frechet=distance, verified=float(np.mean(right)))


def rendered(per_class: int, seed: int) -> Pictures:
    """Rendered pictures of all classes in turn: what a perfect generator draws."""
    pixels, _ = draw_pictures(per_class * len(CLASSES), np.random.default_rng(seed))
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def draw_classes(
    pipe: Pipeline, per_class: int = PER_CLASS, seed: int = 0, **overrides: object
) -> Drawn:
    """`per_class` pictures of each class by plain pipeline calls, a seed of its own for each."""
    pipe.set_progress_bar_config(disable=True)
    count = per_class * len(CLASSES)
    arguments = call_defaults(pipe) | overrides | {"output_type": "pt"}
    parts, evaluations = [], dict.fromkeys(("trunk", "frn", "stack"), 0)
    for start in trange(0, count, _BATCH, desc="draw", unit="batch", leave=False):
        indices = range(start, min(start + _BATCH, count))
        output = pipe(
            class_labels=[index % len(CLASSES) for index in indices],
            generator=make_generators([candidate_seed(seed, index, 0) for index in indices]),
            **arguments,
        )
        parts.append((output.images * 255).round().byte())
        for part, rows in output.evaluations.items():
            evaluations[part] += rows
    pictures = torch.cat(parts).permute(0, 2, 3, 1).cpu().numpy()
    return Drawn(pictures, evaluations)
