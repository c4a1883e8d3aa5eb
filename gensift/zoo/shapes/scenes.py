"""Random scenes that make a given prompt true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gensift.zoo.shapes.grammar import Meaning, satisfies
from gensift.zoo.shapes.world import CANVAS, MAX_SIZE, MIN_SIZE, Kind, Scene, SceneObject

_TRIES_PER_OBJECT = 40


def place(kinds: Sequence[Kind], rng: np.random.Generator) -> Scene:
    """Put objects of the given kinds at random places, sizes 12 to 22 px, none touching."""
    while True:
        placed: list[SceneObject] = []
        for colour, shape in kinds:
            thing = _find_room(colour, shape, placed, rng)
            if thing is None:
                break
            placed.append(thing)
        else:
            return tuple(placed)


def _find_room(
    colour: str, shape: str, placed: list[SceneObject], rng: np.random.Generator
) -> SceneObject | None:
    for _ in range(_TRIES_PER_OBJECT):
        size = int(rng.integers(MIN_SIZE, MAX_SIZE + 1))
        left, top = (int(v) for v in rng.integers(0, CANVAS - size + 1, size=2))
        thing = SceneObject(colour, shape, left, top, size)
        if all(thing.clears(other) for other in placed):
            return thing
    return None


def scene_for(meaning: Meaning, rng: np.random.Generator) -> Scene:
    """A random scene of which `meaning` is true; drawing order of the objects is random too."""
    kinds = list(meaning.wanted.elements())
    while True:
        rng.shuffle(kinds)
        scene = place([(colour, shape) for colour, shape in kinds], rng)
        if satisfies(scene, meaning):
            return scene
