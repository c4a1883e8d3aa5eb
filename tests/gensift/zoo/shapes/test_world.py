"""The renderer against the world's fixed definition."""

import numpy as np
import pytest

from gensift.zoo.shapes.world import (
    BACKGROUND,
    COLOURS,
    MAX_SIZE,
    MIN_SIZE,
    SHAPES,
    SceneObject,
    render,
    shape_mask,
)


@pytest.mark.parametrize("size", range(MIN_SIZE, MAX_SIZE + 1))
@pytest.mark.parametrize("shape", SHAPES)
def test_area_is_that_of_the_geometric_shape(shape: str, size: int) -> None:
    exact = {
        "circle": np.pi / 4,
        "square": 1.0,
        "triangle": 0.5,
        "cross": 5 / 9,
    }[shape]
    # A pixel grid rounds widths to whole pixels: at most one pixel per row is won or lost.
    assert abs(shape_mask(shape, size).sum() - exact * size**2) <= size


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_symmetric_and_reach_the_sides_of_their_box(shape: str) -> None:
    for size in range(MIN_SIZE, MAX_SIZE + 1):
        mask = shape_mask(shape, size)
        assert (mask == mask[:, ::-1]).all()
        assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


def test_triangle_points_up() -> None:
    widths = shape_mask("triangle", 20).sum(1)
    assert (np.diff(widths) >= 0).all() and widths[-1] == 20 and widths[0] <= 2


def test_cross_arms_are_a_third_of_the_box() -> None:
    mask = shape_mask("cross", 18)
    assert mask[0].sum() == 6 and mask[:, 0].sum() == 6 and mask[9].sum() == 18


def test_render_puts_exact_colours_at_the_place() -> None:
    picture = render((SceneObject("orange", "square", 5, 40, 12),))
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert (picture[40:52, 5:17] == COLOURS["orange"]).all()
    outside = np.ones((64, 64), dtype=bool)
    outside[40:52, 5:17] = False
    assert (picture[outside] == BACKGROUND).all()


def test_gap_between_boxes() -> None:
    left = SceneObject("red", "circle", 0, 0, 12)
    assert left.clears(SceneObject("red", "circle", 14, 0, 12))
    assert not left.clears(SceneObject("red", "circle", 13, 0, 12))
    assert left.clears(SceneObject("red", "circle", 0, 14, 12))
