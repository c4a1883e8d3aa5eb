"""The Shapes world: what a scene is, and how it is drawn.

Canvas, colours, shapes and sizes are fixed, so that independent programs can check pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CANVAS = 64
BACKGROUND = (240, 240, 240)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
}
SHAPES = ("circle", "square", "triangle", "cross")
MIN_SIZE, MAX_SIZE = 12, 22
MIN_GAP = 2
RELATION_MARGIN = 8

Kind = tuple[str, str]
"""What an object looks like: (colour, shape)."""


@dataclass(frozen=True)
class SceneObject:
    """One object: `left`, `top` and `size` (side of its bounding box) in whole pixels."""

    colour: str
    shape: str
    left: int
    top: int
    size: int

    @property
    def kind(self) -> Kind:
        """(colour, shape)."""
        return self.colour, self.shape

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in pixels, y pointing down."""
        return self.left + self.size / 2, self.top + self.size / 2

    def clears(self, other: SceneObject) -> bool:
        """Whether the bounding boxes keep the least gap along one axis."""
        return (
            self.left + self.size + MIN_GAP <= other.left
            or other.left + other.size + MIN_GAP <= self.left
            or self.top + self.size + MIN_GAP <= other.top
            or other.top + other.size + MIN_GAP <= self.top
        )


Scene = tuple[SceneObject, ...]


@lru_cache(maxsize=256)
def shape_mask(shape: str, size: int) -> NDArray[np.bool_]:
    """Pixels that `shape` covers in its `(size, size)` bounding box.

    A pixel belongs to the shape when its centre does.
    """
    y, x = np.mgrid[0:size, 0:size] + 0.5
    if shape == "circle":
        mask: NDArray[np.bool_] = (x - size / 2) ** 2 + (y - size / 2) ** 2 <= (size / 2) ** 2
    elif shape == "square":
        mask = np.ones((size, size), dtype=bool)
    elif shape == "triangle":
        # The apex is at least as wide as the pixels it meets, so that the box is filled.
        mask = np.abs(x - size / 2) <= np.maximum(y / 2, 0.5)
    elif shape == "cross":
        arm = size / 6
        mask = (np.abs(x - size / 2) <= arm) | (np.abs(y - size / 2) <= arm)
    else:
        raise ValueError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
    mask.setflags(write=False)
    return mask


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw `scene` as a uint8 `(64, 64, 3)` RGB picture."""
    picture = np.empty((CANVAS, CANVAS, 3), dtype=np.uint8)
    picture[:] = BACKGROUND
    for thing in scene:
        box = picture[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
        box[shape_mask(thing.shape, thing.size)] = COLOURS[thing.colour]
    return picture
