"""A picture of a consistency curve: agreement over scales, and where to select."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gensift.files import write_atomically
from samplers.autoregressive.consistency import Agreement
from samplers.autoregressive.schedule import SearchSchedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, CURVE, FAINT = "#1d2330", "#2a5ca8", "#9aa3b2"
CLUSTER, RESAMPLE = "#c98a1b", "#1f8a5b"


def draw_curve(
    curve: Sequence[Agreement],
    schedule: SearchSchedule,
    threshold: float,
    path: Path,
    grids: Sequence[tuple[int, int]] = (),
) -> None:
    """Draw the curve with its intervals, the threshold and the selections into a .png file.

    Args:
        curve: one entry per scale.
        schedule: whose selections are marked.
        threshold: of the Spearman correlation.
        path: file to write, complete or not at all.
        grids: token grid `(height, width)` of each scale, where known.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    width = max(4.0, 0.5 * len(curve)) + 2.4
    figure = Figure(figsize=(width, 3.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    scales = [at.scale for at in curve]
    _mark(axes, schedule.cluster_scales, CLUSTER, "clusters after")
    _mark(axes, schedule.resample_scales, RESAMPLE, "resampling after")
    axes.axhline(threshold, color=FAINT, lw=1, ls="--", label=f"threshold {threshold:g}")
    low, high = [at.low for at in curve], [at.high for at in curve]
    axes.fill_between(scales, low, high, color=CURVE, alpha=0.2, lw=0)
    spearman = [at.spearman for at in curve]
    axes.plot(scales, spearman, "o-", color=CURVE, ms=4, label="Spearman, 95 %")
    axes.plot(scales, [at.best_kept for at in curve], ":", color=INK, lw=1, label="best kept")
    lowest = min((value for value in (*low, *spearman) if math.isfinite(value)), default=0.0)
    axes.set_ylim(min(0.0, lowest) - 0.05, 1.05)
    axes.set_xlim(-0.4, len(curve) - 0.6)
    axes.set_xticks(scales, [_label(scale, grids) for scale in scales])
    axes.tick_params(labelsize=7, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("scale, from coarse to fine", fontsize=8, color=INK)
    axes.set_ylabel("agreement with the final reward", fontsize=8, color=INK)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomically(path, data.getvalue())


def _mark(axes: Axes, scales: Sequence[int], colour: str, label: str) -> None:
    for place, scale in enumerate(scales):
        # Names that start with an underscore are not in the legend.
        axes.axvline(scale, color=colour, lw=6, alpha=0.25, label="_" * (place > 0) + label)


def _label(scale: int, grids: Sequence[tuple[int, int]]) -> str:
    return f"{scale}\n{grids[scale][0]}x{grids[scale][1]}" if grids else str(scale)
