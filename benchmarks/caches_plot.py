"""The plot of `benchmarks.caches`: nearness to uncached pictures against speed-up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_EMPHASISED = {"ERTACache": "#1f5fb4", "BAC": "#c2571a", "fewer steps": "#1d2330"}


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Draw PSNR and feature distance against measured denoiser speed-up, a line per method."""
    figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2)
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in figures["contenders"]:
        curves.setdefault(row["method"], []).append(row)
    for axes, key, label in zip(
        panels,
        ("psnr", "feature_distance"),
        ("PSNR against the uncached picture, dB", "distance of shapes-clip features"),
        strict=True,
    ):
        for method, rows in curves.items():
            ordered = sorted(rows, key=lambda row: row["speedup"])
            strong = method in _EMPHASISED
            axes.plot(
                [row["speedup"] for row in ordered],
                [row[key] for row in ordered],
                marker="o",
                markersize=4 if strong else 3,
                linewidth=2 if strong else 0.9,
                color=_EMPHASISED.get(method),
                zorder=3 if strong else 2,
                label=method,
            )
        axes.axvline(2.0, color="#c3c9d6", linewidth=1, zorder=1)
        axes.set_xlabel("measured speed-up of the denoiser")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
    panels[1].set_yscale("log")
    panels[1].legend(fontsize=7, frameon=False)
    figure.suptitle(f"shapes-flux, {figures['steps']} steps, {figures['prompts']} held-out prompts")
    figure.savefig(path)
