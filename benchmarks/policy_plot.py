"""The pictures of `benchmarks.policy`: success against speed, error per step, and the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.results import FOLDER
from caches.picture import schedule_figure

_COLORS = {"BAC": "#c2571a", "DDIM": "#1f5fb4", "uncached": "#1d2330"}
_OTHER = "#7a8194"


def draw(figures: Mapping[str, Any], traces: Mapping[str, Sequence[float]]) -> None:
    """Write `bac_policy.png`, `bac_policy_errors.png` and `bac_policy_schedule.png`."""
    _draw_success(figures)
    _draw_traces(traces)
    schedule = {item["unit"]: item["updates"] for item in figures["bac_schedule"]}
    title = (
        "BAC of metaworld-policy: 10 updates, those of 5 sub-blocks joined by the bubbling union"
    )
    picture = schedule_figure(schedule, figures["steps"], title)
    picture.savefig(FOLDER / "bac_policy_schedule.png")


def _draw_success(figures: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(9, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for row in figures["rows"]:
        name = row["method"]
        x, y = row["speedup_batch_1"], row["success"]
        axes.plot(x, y, "o", color=_color(name))
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("times faster per chunk than 100 uncached steps, batch 1")
    axes.set_ylabel("success on six tasks, %")
    axes.set_xscale("log")
    axes.grid(alpha=0.25)
    figure.savefig(FOLDER / "bac_policy.png")


def _draw_traces(traces: Mapping[str, Sequence[float]]) -> None:
    figure = Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, values in traces.items():
        axes.plot(values, label=name, linewidth=1.2)
    axes.set_xlabel("step, from noise to actions")
    axes.set_ylabel("relative distance to the uncached run")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(FOLDER / "bac_policy_errors.png")


def _color(name: str) -> str:
    return next((color for start, color in _COLORS.items() if name.startswith(start)), _OTHER)
