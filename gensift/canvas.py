"""A sheet of marks measured in inches, painted by Pillow in milliseconds.

Points are `(x, y)` in inches from the upper left corner, y pointing down; sizes of text and widths
of lines are in points (1/72 inch); colours are what Pillow calls so, such as "#1d2330".
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gensift.errors import GensiftError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

    Stencil = tuple[Image, tuple[int, int]]  # "L", 255 where it covers; pixel of its corner

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom

SMOOTHING = 3  # samples per pixel and direction at the edges of shapes
CURVE_PIECES = 24
ASCENT = 0.76  # of DejaVu Sans, from the base line up, as a share of its size


@dataclass(frozen=True, kw_only=True)
class Text:
    """Lines of text at a point, which is their left or right end or centre, top or middle."""

    at: Point
    text: str
    color: str
    size: float = 8.0
    bold: bool = False
    horizontal: Literal["left", "center", "right"] = "center"
    vertical: Literal["top", "center"] = "top"
    line_spacing: float = 1.0
    layer: float = 9.0

    def paint(self, sheet: Sheet) -> None:
        """Put the text on the sheet."""
        font = load_font(self.size * sheet.dpi / 72, self.bold)
        lines = self.text.split("\n")
        pitch = font.size * self.line_spacing
        x, y = self.at[0] * sheet.dpi, self.at[1] * sheet.dpi
        y += font.size * ASCENT + (pitch - font.size) / 2
        if self.vertical == "center":
            y -= pitch * len(lines) / 2
        anchor = {"left": "ls", "center": "ms", "right": "rs"}[self.horizontal]
        for number, line in enumerate(lines):
            place = x, y + number * pitch
            sheet.draw.text(place, line, fill=self.color, font=font, anchor=anchor)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture scaled into a box; `opacity` 1 shows it as it is, 0 the paper alone."""

    box: Box
    image: Image
    opacity: float = 1.0
    layer: float = 3.0

    def paint(self, sheet: Sheet) -> None:
        """Put the picture on the sheet."""
        from PIL import Image

        left, top, right, bottom = (round(length * sheet.dpi) for length in self.box)
        size = max(right - left, 1), max(bottom - top, 1)
        scaled = self.image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        if self.opacity < 1:
            scaled = Image.blend(Image.new("RGB", size, sheet.paper), scaled, self.opacity)
        sheet.image.paste(scaled, (left, top))


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """A box, filled or not, with an outline on its edge or none; `rounding` is a radius, inches.

    dashes: lengths of the outline's strokes and gaps, points; None for an unbroken one.
    """

    box: Box
    fill: str | None = None
    outline: str | None = None
    width: float = 1.0
    rounding: float = 0.0
    dashes: tuple[float, float] | None = None
    layer: float = 1.0

    def paint(self, sheet: Sheet) -> None:
        """Put the box on the sheet."""
        if self.fill is not None:
            sheet.shape(self.box, self.fill, lambda pen: pen.box(self.box, self.rounding))
        if self.outline is None:
            return
        half = self.width / 72 / 2
        around = _grown(self.box, half)
        if self.dashes is None:
            inside = _grown(self.box, -half)

            def ring(pen: Pen) -> None:
                pen.box(around, self.rounding + half)
                pen.box(inside, max(self.rounding - half, 0.0), erase=True)

            sheet.shape(around, self.outline, ring)
        else:
            left, top, right, bottom = self.box
            size = round(right - left, 6), round(bottom - top, 6)
            stencil = _dashed_outline(*size, self.rounding, self.width, self.dashes, sheet.dpi)
            sheet.stamp(stencil, self.outline, (round(left * sheet.dpi), round(top * sheet.dpi)))


@dataclass(frozen=True, kw_only=True)
class Disc:
    """A filled circle with an outline on its edge."""

    centre: Point
    radius: float
    fill: str
    outline: str
    width: float
    layer: float = 7.0

    def paint(self, sheet: Sheet) -> None:
        """Put the circle on the sheet."""
        half = self.width / 72 / 2
        for radius, color in ((self.radius + half, self.outline), (self.radius - half, self.fill)):
            self._fill(sheet, radius, color)

    def _fill(self, sheet: Sheet, radius: float, color: str) -> None:
        box = _grown((*self.centre, *self.centre), radius)
        sheet.shape(box, color, lambda pen: pen.box(box, radius))


@dataclass(frozen=True, kw_only=True)
class Line:
    """A stroke with round ends through points."""

    points: tuple[Point, ...]
    color: str
    width: float
    layer: float = 8.0

    def paint(self, sheet: Sheet) -> None:
        """Put the stroke on the sheet."""
        xs, ys = zip(*self.points, strict=True)
        box = _grown((min(xs), min(ys), max(xs), max(ys)), self.width / 72)
        sheet.shape(box, self.color, lambda pen: pen.stroke(self.points, self.width))


Mark = Text | Picture | Rectangle | Disc | Line


@dataclass
class Canvas:
    """What is to be seen on a sheet of `width` by `height` inches."""

    width: float
    height: float
    paper: str = "#ffffff"
    marks: list[Mark] = field(default_factory=list)

    def add(self, mark: Mark) -> None:
        """Put a mark over those of its own and lower layers."""
        self.marks.append(mark)

    def paint(self, dpi: int) -> Image:
        """Return the sheet as a picture, RGB, of `width * dpi` by `height * dpi` pixels."""
        sheet = Sheet(round(self.width * dpi), round(self.height * dpi), dpi, self.paper)
        for mark in sorted(self.marks, key=lambda mark: mark.layer):
            mark.paint(sheet)
        return sheet.image


class Sheet:
    """The pixels that marks are painted on.

    Attributes:
        image: what has been painted.
        draw: Pillow's tool upon it.
        dpi: pixels per inch.
        paper: the colour of the ground.
    """

    def __init__(self, width: int, height: int, dpi: int, paper: str) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (width, height), paper)
        self.draw: ImageDraw.ImageDraw = ImageDraw.Draw(self.image)
        self.dpi = dpi
        self.paper = paper

    def shape(self, box: Box, color: str, paint: Callable[[Pen], None]) -> None:
        """Colour what `paint` covers with its pen, with smooth edges; nothing outside of `box`."""
        self.stamp(_stencil(box, self.dpi, paint), color)

    def stamp(self, stencil: Stencil, color: str, offset: tuple[int, int] = (0, 0)) -> None:
        """Colour what a stencil covers when it is moved by `offset` pixels."""
        mask, (left, top) = stencil
        self.image.paste(color, (left + offset[0], top + offset[1]), mask)


def _stencil(box: Box, dpi: int, paint: Callable[[Pen], None]) -> Stencil:
    from PIL import Image, ImageDraw

    left, top = (math.floor(edge * dpi) - 1 for edge in box[:2])
    right, bottom = (math.ceil(edge * dpi) + 1 for edge in box[2:])
    mask = Image.new("L", ((right - left) * SMOOTHING, (bottom - top) * SMOOTHING))
    paint(Pen(ImageDraw.Draw(mask), (left, top), dpi))
    return mask.reduce(SMOOTHING), (left, top)


@functools.lru_cache(maxsize=64)
def _dashed_outline(
    width: float,
    height: float,
    rounding: float,
    thickness: float,
    dashes: tuple[float, float],
    dpi: int,
) -> Stencil:
    """Stencil of a box at the sheet's corner; all boxes of a row share one, as it takes a while."""
    box = (0.0, 0.0, width, height)
    strokes = _dashed(_edge(box, rounding), [length / 72 for length in dashes])
    around = _grown(box, thickness / 72 / 2)
    return _stencil(around, dpi, lambda pen: pen.dashes(strokes, thickness))


@dataclass(frozen=True)
class Pen:
    """Paints on a mask of several samples per pixel whose corner is the pixel `origin`."""

    draw: ImageDraw
    origin: tuple[int, int]
    dpi: int

    def _scaled(self, point: Point) -> Point:
        left, top = self.origin
        x, y = point[0] * self.dpi - left, point[1] * self.dpi - top
        return x * SMOOTHING, y * SMOOTHING

    def box(self, box: Box, rounding: float, *, erase: bool = False) -> None:
        """Fill a box, or wipe it out again."""
        (left, top), (right, bottom) = self._scaled(box[:2]), self._scaled(box[2:])
        # Pillow counts the last row and column in.
        corners = left, top, max(right - 1, left), max(bottom - 1, top)
        radius = rounding * self.dpi * SMOOTHING
        self.draw.rounded_rectangle(corners, radius, fill=0 if erase else 255)

    def stroke(self, line: Sequence[Point], width: float) -> None:
        """Draw a line of `width` points with round ends and joints."""
        points, thickness = [self._scaled(point) for point in line], self._thickness(width)
        self.draw.line(points, fill=255, width=thickness, joint="curve" if len(line) > 2 else None)
        for end in (points[0], points[-1]):
            self.draw.circle(end, thickness / 2, fill=255)

    def dashes(self, lines: Sequence[Sequence[Point]], width: float) -> None:
        """Draw short lines of `width` points."""
        thickness = self._thickness(width)
        for line in lines:
            self.draw.line([self._scaled(point) for point in line], fill=255, width=thickness)

    def _thickness(self, width: float) -> int:
        return max(round(width / 72 * self.dpi * SMOOTHING), 1)


def curve(start: Point, end: Point) -> tuple[Point, ...]:
    """Points of a smooth line that leaves and arrives vertically."""
    if start[0] == end[0]:
        return start, end
    half = (start[1] + end[1]) / 2
    controls = start, (start[0], half), (end[0], half), end
    return tuple(_bezier(controls, piece / CURVE_PIECES) for piece in range(CURVE_PIECES + 1))


def _bezier(controls: Sequence[Point], share: float) -> Point:
    rest = 1 - share
    weights = rest**3, 3 * rest**2 * share, 3 * rest * share**2, share**3
    x, y = (
        sum(weight * point[axis] for weight, point in zip(weights, controls, strict=True))
        for axis in (0, 1)
    )
    return x, y


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _edge(box: Box, rounding: float) -> list[Point]:
    """Points around a box with round corners, the first one repeated at the end."""
    left, top, right, bottom = _grown(box, -rounding)
    points = []
    for quarter, (x, y) in enumerate([(right, bottom), (left, bottom), (left, top), (right, top)]):
        for step in range(5):
            angle = math.pi / 2 * (quarter + step / 4)
            points.append((x + rounding * math.cos(angle), y + rounding * math.sin(angle)))
    return [*points, points[0]]


def _dashed(line: Sequence[Point], lengths: Sequence[float]) -> list[list[Point]]:
    """Cut a line into strokes of `lengths[0]` with gaps of `lengths[1]` between them."""
    strokes: list[list[Point]] = []
    is_stroke, left = True, lengths[0]
    stroke = [line[0]]
    for start, end in pairwise(line):
        length, done = math.dist(start, end), 0.0
        while length - done > left:
            done += left
            share = done / length
            cut = (
                start[0] + (end[0] - start[0]) * share,
                start[1] + (end[1] - start[1]) * share,
            )
            if is_stroke:
                strokes.append([*stroke, cut])
            is_stroke, stroke = not is_stroke, [cut]
            left = lengths[0 if is_stroke else 1]
        left -= length - done
        stroke.append(end)
    return [*strokes, stroke] if is_stroke and len(stroke) > 1 else strokes


@functools.cache
def load_font(size: float, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans of `size` pixels, out of matplotlib's folder of fonts.

    Raises:
        GensiftError: if matplotlib does not have it.
    """
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    # Found without importing matplotlib, which alone takes longer than to draw.
    found = importlib.util.find_spec("matplotlib")
    origin = found.origin if found is not None else None
    file = Path(origin or "").parent / "mpl-data" / "fonts" / "ttf" / name
    if origin is None or not file.is_file():
        raise GensiftError(
            f"The font {name!r} that trees are labelled in is not among matplotlib's; "
            "install matplotlib anew with `pip install --force-reinstall matplotlib`."
        )
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
