"""The scales that Infinity was trained on, by aspect ratio and by size.

Source: the released model's schedules; a size is a prefix of its ratio's list.
"""

from __future__ import annotations

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.scales import ScaleSchedule

# Height over width -> grids of a picture of about a million pixels, at 16 pixels a token.
TALL: dict[float, tuple[tuple[int, int], ...]] = {
    1.0: tuple((side, side) for side in (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)),
    1.25: (
        *((1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16)),
        *((25, 20), (30, 24), (35, 28), (45, 36), (55, 44), (70, 56)),
    ),
    1.333: (
        *((1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15)),
        *((24, 18), (28, 21), (36, 27), (48, 36), (60, 45), (72, 54)),
    ),
    1.5: (
        *((1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14)),
        *((27, 18), (33, 22), (39, 26), (48, 32), (63, 42), (78, 52)),
    ),
    1.75: (
        *((1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12)),
        *((28, 16), (35, 20), (42, 24), (56, 32), (70, 40), (84, 48)),
    ),
    2.0: (
        *((1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11)),
        *((30, 15), (38, 19), (46, 23), (60, 30), (74, 37), (90, 45)),
    ),
    2.5: (
        *((1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10)),
        *((30, 12), (40, 16), (50, 20), (65, 26), (80, 32), (100, 40)),
    ),
    3.0: (
        *((1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9)),
        *((36, 12), (45, 15), (54, 18), (72, 24), (90, 30), (111, 37)),
    ),
}
SIZES = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Millions of pixels -> how many of the scales are drawn."""


def ratios() -> dict[float, tuple[tuple[int, int], ...]]:
    """All ratios of height to width, wide ones included."""
    wide = {
        int(1000 / ratio) / 1000: tuple((width, height) for height, width in scales)
        for ratio, scales in TALL.items()
        if ratio != 1
    }
    return TALL | wide


def schedule_for(size: str = "1M", ratio: float = 1.0) -> ScaleSchedule:
    """The schedule of a size and of the ratio of height to width that comes nearest.

    Positions are measured on the finest grid of the ratio, whatever the size.

    Raises:
        ConfigError: no such size, or a ratio that is not positive.
    """
    if size not in SIZES:
        raise ConfigError(f"size {size!r} is unknown; allowed: {', '.join(SIZES)}.")
    if not ratio > 0:
        raise ConfigError(f"The ratio of height to width is {ratio}; it must be positive.")
    known = ratios()
    scales = known[min(known, key=lambda candidate: abs(candidate - ratio))]
    return ScaleSchedule.of(scales[: SIZES[size]], reference=scales[-1])
