"""The plot of `benchmarks.bfm`: quality against MACs and against time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

STYLES: Mapping[tuple[str, str], tuple[str, str, str]] = {
    ("shapes-sit", "full"): ("dense SiT", "#1d2330", "o-"),
    ("shapes-sit", "heun"): ("dense SiT, Heun", "#8a93a6", "o--"),
    ("shapes-bfm", "full"): ("BFM, full", "#1f5fb4", "s-"),
    ("shapes-bfm", "frn"): ("BFM, FRN", "#c2571a", "^-"),
    ("shapes-bfm", "hold"): ("BFM, hold", "#2e8b57", "v-"),
    ("converted", "full"): ("converted SiT, full", "#1f5fb4", "s:"),
    ("converted", "frn"): ("converted SiT, FRN", "#c2571a", "^:"),
    ("converted", "hold"): ("converted SiT, hold", "#2e8b57", "v:"),
}
"""Model and mode -> label, colour, and a marker and line that tell them apart without colour."""
COSTS = (("mmacs", 1.0, "million MACs per picture"), ("seconds", 1e3, "ms per picture"))
QUALITIES = (("frechet", "Frechet distance, shapes-clip"), ("verified", "share verified"))


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw both figures of quality against both costs, a line per model and mode."""
    figure = Figure(figsize=(11, 8), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for line, (quality, quality_label) in zip(panels, QUALITIES, strict=True):
        for axes, (cost, factor, cost_label) in zip(line, COSTS, strict=True):
            _lines(axes, figures["rows"], cost, factor, quality)
            axes.set_xscale("log")
            axes.set_xlabel(cost_label)
            axes.grid(alpha=0.25, which="both")
        line[0].set_ylabel(quality_label)
    panels[0][0].set_yscale("log")
    floor = figures["floors"]["rendered_through_vae"]
    for axes in panels[0]:
        axes.axhline(floor["frechet"], color="#c3c9d6", linewidth=1, zorder=1)
        axes.annotate(
            "rendered pictures through the VAE",
            (0.01, floor["frechet"]),
            xycoords=axes.get_yaxis_transform(),
            fontsize=7,
            va="bottom",
        )
    panels[1][1].legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(f"24 classes, {figures['pictures']:,} pictures per setting")
    figure.savefig(path)


def _lines(axes: Any, rows: Any, cost: str, factor: float, quality: str) -> None:
    for (model, mode), (label, colour, style) in STYLES.items():
        found = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
        ordered = sorted(found, key=lambda row: row[cost])
        if ordered:
            x = [row[cost] * factor for row in ordered]
            y = [row[quality] for row in ordered]
            axes.plot(x, y, style, color=colour, label=label, markersize=4.5, linewidth=1.3)
