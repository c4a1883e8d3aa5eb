"""A picture of a schedule: which part of the denoiser is computed at which step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from caches.calibrate import Calibration

INK, COMPUTED, REUSED = "#1d2330", "#2a5ca8", "#e6edf7"
_ROW, _COLUMN, _LEFT = 0.22, 0.16, 2.6  # inches


def draw_schedule(found: Calibration, path: Path) -> None:
    """Draw parts (rows, in execution order) by steps (columns) into the file `path`."""
    title = (
        f"{found.cache.name}: {found.predicted_speedup:.2f} x predicted, "
        f"{found.measured_speedup:.2f} x measured, error {found.error:.3f} on held-out prompts"
    )
    schedule_figure(found.schedule, found.num_steps, title).savefig(path)


def schedule_figure(schedule: Mapping[str, Sequence[int]], steps: int, title: str) -> Figure:
    """The same as a figure, of the steps at which each part is computed."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = list(schedule)
    table = [[int(step in schedule[name]) for step in range(steps)] for name in names]
    width, height = _LEFT + max(24, steps) * _COLUMN + 0.4, len(names) * _ROW + 1.5
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(
        table, cmap=ListedColormap([REUSED, COMPUTED]), vmin=0, vmax=1, edgecolors="white", lw=1
    )
    axes.set_yticks([row + 0.5 for row in range(len(names))], names, fontsize=7)
    every = max(1, steps // 10)
    axes.set_xticks(
        [step + 0.5 for step in range(0, steps, every)],
        [str(step) for step in range(0, steps, every)],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.tick_params(length=0, colors=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("step, from noise to sample", fontsize=8, color=INK)
    figure.suptitle(title, fontsize=9, color=INK)
    figure.legend(
        handles=[Patch(color=COMPUTED, label="computed"), Patch(color=REUSED, label="reused")],
        loc="outside lower right",
        ncols=2,
        fontsize=7,
        frameon=False,
    )
    return figure
