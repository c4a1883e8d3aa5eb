"""The analytic verifier: what a picture holds, and whether a prompt is true of it.

Each pixel is explained as a mixture of the background and one palette colour; connected
foreground is matched against shape templates. It knows the world's palette and shapes, and nothing
of any model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gensift.zoo.shapes.grammar import NUMBERS, RELATIONS, Meaning, relation_holds
from gensift.zoo.shapes.world import (
    BACKGROUND,
    CANVAS,
    COLOURS,
    MAX_SIZE,
    MIN_SIZE,
    SHAPES,
    shape_mask,
)

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]

UNKNOWN = "unknown"
_MIN_COVERAGE = 0.5  # share of an object's colour in a pixel that belongs to it
_CORE_COVERAGE = 0.8  # pixels this pure decide an object's colour
_SPECK = 12  # smaller blobs are noise; the smallest object covers 72 pixels
_SPLIT_SHARE = 0.25  # a second colour with this share of a blob is a second object
_SIZE_SLACK = 2  # decoders blur edges by a pixel or so on each side
_MIN_OVERLAP = 0.72  # least intersection-over-union with a template
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float64) - np.array(BACKGROUND)
_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Detection:
    """One thing found: `shape` is "unknown" for what matches no template.

    `left`, `top`, `width`, `height` in pixels; `overlap` is the intersection-over-union with the
    best template, in [0, 1].
    """

    colour: str
    shape: str
    left: int
    top: int
    width: int
    height: int
    overlap: float

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in pixels, y pointing down."""
        return self.left + self.width / 2, self.top + self.height / 2


def detect(picture: Picture) -> list[Detection]:
    """Everything in `picture` that is not background.

    Args:
        picture: uint8 `(64, 64, 3)`, RGB.
    """
    if picture.shape != (CANVAS, CANVAS, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"picture is {picture.dtype} {picture.shape}; the verifier takes uint8 (64, 64, 3)"
        )
    colour, coverage = _unmix(picture)
    blobs, count = ndimage.label(coverage >= _MIN_COVERAGE)
    found: list[Detection] = []
    for number in range(1, count + 1):
        blob = blobs == number
        if blob.sum() >= _SPECK:
            found += [_describe(part, name) for part, name in _split(blob, colour, coverage)]
    return found


def _unmix(picture: Picture) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Per pixel: the palette colour that explains it best, and how much of it is there."""
    offset = picture.reshape(-1, 3).astype(np.float64) - np.array(BACKGROUND)
    amount = offset @ _PALETTE.T / (_PALETTE**2).sum(1)
    capped = amount.clip(0, 1)
    residual = ((offset[:, None] - capped[..., None] * _PALETTE) ** 2).sum(-1)
    best = residual.argmin(1)
    coverage = np.take_along_axis(capped, best[:, None], 1)[:, 0]
    return best.reshape(CANVAS, CANVAS), coverage.reshape(CANVAS, CANVAS)


def _split(
    blob: Mask, colour: NDArray[np.intp], coverage: NDArray[np.float64]
) -> list[tuple[Mask, str]]:
    """One blob as one object, or as several when it has several colours."""
    core = blob & (coverage >= _CORE_COVERAGE)
    votes = np.bincount(colour[core if core.any() else blob], minlength=len(_NAMES))
    present = np.flatnonzero(votes >= max(_SPECK, _SPLIT_SHARE * votes.sum()))
    if len(present) <= 1:
        return [(blob, _NAMES[int(votes.argmax())])]
    parts: list[tuple[Mask, str]] = []
    for index in present:
        pieces, count = ndimage.label(blob & (colour == index))
        masks = [pieces == number for number in range(1, count + 1)]
        parts += [(mask, _NAMES[index]) for mask in masks if mask.sum() >= _SPECK]
    return parts


def _describe(mask: Mask, colour: str) -> Detection:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    crop = mask[top : top + height, left : left + width]
    overlaps = {shape: _overlap(crop, shape) for shape in SHAPES}
    shape = max(overlaps, key=lambda name: overlaps[name])
    allowed = range(MIN_SIZE - _SIZE_SLACK, MAX_SIZE + _SIZE_SLACK + 1)
    fits = height in allowed and width in allowed and overlaps[shape] >= _MIN_OVERLAP
    return Detection(colour, shape if fits else UNKNOWN, left, top, width, height, overlaps[shape])


def _overlap(crop: Mask, shape: str) -> float:
    """Best intersection-over-union of `crop` with the shape at about its size."""
    height, width = crop.shape
    middle = round((height + width) / 2)
    best = 0.0
    for size in range(max(middle - 1, 3), middle + 2):
        template = shape_mask(shape, size)
        side_y, side_x = max(height, size), max(width, size)
        both = np.zeros((2, side_y, side_x), dtype=bool)
        _centre(both[0], crop)
        _centre(both[1], template)
        union = np.count_nonzero(both[0] | both[1])
        best = max(best, np.count_nonzero(both[0] & both[1]) / union)
    return best


def _centre(canvas: Mask, patch: Mask) -> None:
    top, left = (canvas.shape[0] - patch.shape[0]) // 2, (canvas.shape[1] - patch.shape[1]) // 2
    canvas[top : top + patch.shape[0], left : left + patch.shape[1]] = patch


def meanings_of(picture: Picture) -> list[Meaning]:
    """All prompts that are true of `picture`, in every wording; none when no prompt can say it."""
    found = detect(picture)
    kinds = [(thing.colour, thing.shape) for thing in found]
    if any(shape == UNKNOWN for _, shape in kinds):
        return []
    if len(set(kinds)) == 1 and len(kinds) <= max(NUMBERS.values()):
        return [Meaning(kinds[0], len(kinds))]
    if len(kinds) != 2:
        return []
    candidates = [
        Meaning(first, 1, relation, second)
        for first, second in permutations(kinds)
        for relation in ("and", *RELATIONS)
    ]
    return [meaning for meaning in candidates if verdict(found, meaning) == 1.0]


def is_true(picture: Picture, meaning: Meaning) -> bool:
    """Whether `picture` holds exactly what the prompt names, and nothing else."""
    return verdict(detect(picture), meaning) == 1.0


def verdict(found: list[Detection], meaning: Meaning) -> float:
    """1.0 for a true picture; otherwise partial credit, at most 0.75.

    Partial credit is three quarters of the share of things found or wanted that match; a picture
    with the right objects in the wrong relation gets 0.5. It breaks ties among wrong candidates.
    """
    kinds = Counter((thing.colour, thing.shape) for thing in found)
    matched = (kinds & meaning.wanted).total()
    if matched < max(len(found), meaning.wanted.total()):
        return 0.75 * matched / max(len(found), meaning.wanted.total())
    if meaning.relation is None:
        return 1.0
    first, second = sorted(found, key=lambda thing: (thing.colour, thing.shape) != meaning.first)
    return 1.0 if relation_holds(meaning.relation, first.centre, second.centre) else 0.5
