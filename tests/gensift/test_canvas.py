import math

import numpy as np
import pytest

from gensift.canvas import Canvas, Disc, Line, Rectangle, Text, _dashed, curve, load_font

DPI = 160


def ink(*marks, width=1.0, height=1.0):
    """How dark each pixel is, from 0 to 1."""
    canvas = Canvas(width, height)
    for mark in marks:
        canvas.add(mark)
    return 1 - np.asarray(canvas.paint(DPI).convert("L")) / 255


@pytest.mark.parametrize("offset", [0.0, 0.001, 0.0023])
def test_shapes_cover_their_areas(offset):
    box = (0.2 + offset, 0.3, 0.7 + offset, 0.6)
    area = 0.5 * 0.3 * DPI**2
    assert ink(Rectangle(box=box, fill="#000000")).sum() == pytest.approx(area, rel=0.01)
    ring = ink(Rectangle(box=box, outline="#000000", width=3.0)).sum()
    assert ring == pytest.approx(2 * (0.5 + 0.3) * 3 / 72 * DPI**2, rel=0.02)
    disc = Disc(centre=(0.5, 0.5), radius=0.2, fill="#000000", outline="#000000", width=0.9)
    radius = 0.2 + 0.9 / 72 / 2
    assert ink(disc).sum() == pytest.approx(math.pi * radius**2 * DPI**2, rel=0.02)


def test_a_line_is_as_thick_as_asked_for():
    line = ink(Line(points=((0.5, 0.2), (0.5, 0.8)), color="#000000", width=2.2))
    assert line[DPI // 2].sum() == pytest.approx(2.2 / 72 * DPI, abs=0.35)


def test_dashes_have_the_lengths_asked_for():
    strokes = _dashed([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], (0.3, 0.2))
    spans = [sum(map(math.dist, stroke, stroke[1:])) for stroke in strokes]
    assert spans == pytest.approx([0.3] * 4)
    assert strokes[2] == [pytest.approx(point) for point in [(1.0, 0.0), (1.0, 0.3)]]


def test_curves_leave_and_arrive_vertically():
    points = curve((0.0, 0.0), (3.0, 1.0))
    assert points[0] == (0.0, 0.0) and points[-1] == pytest.approx((3.0, 1.0))
    for (x, y), (other_x, other_y) in (points[:2], points[-2:]):
        assert abs(other_x - x) < abs(other_y - y)


@pytest.mark.parametrize("horizontal", ["left", "center", "right"])
def test_text_stands_where_it_is_put(horizontal):
    text = Text(at=(0.5, 0.5), text="HH\nHH", color="#000000", horizontal=horizontal, size=12)
    _, columns = np.nonzero(ink(text) > 0.5)
    left, right = columns.min() / DPI - 0.5, columns.max() / DPI - 0.5
    expected = {"left": left, "center": (left + right) / 2, "right": right}[horizontal]
    assert abs(expected) < 0.02 and right - left > 0.2
    centred = Text(at=(0.5, 0.5), text="H", color="#000000", vertical="center", size=12)
    rows, _ = np.nonzero(ink(centred) > 0.5)
    assert abs(rows.mean() / DPI - 0.5) < 0.03


def test_fonts_are_loaded_once():
    assert load_font(12.0, True) is load_font(12.0, True)
