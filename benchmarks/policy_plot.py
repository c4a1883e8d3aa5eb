"""The pictures of `benchmarks.policy`: error against speed, error per step, and the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.results import FOLDER
from caches.picture import schedule_figure

_COLORS = {
    "BAC": "#c2571a",
    "uniform schedule": "#2e8b57",
    "shared schedule": "#8a4fb0",
    "block-wise without bubbling": "#b8860b",
    "DDIM": "#1f5fb4",
}
_OTHER = "#7a8194"
TRACED = "10 updates"
"""Which caches' errors are drawn step by step."""


def draw(figures: Mapping[str, Any], traces: Mapping[str, Sequence[float]]) -> None:
    """Write `bac_policy.png`, `bac_policy_errors.png` and `bac_policy_schedule.png`."""
    _draw_rows(figures)
    _draw_traces(traces)
    schedule = {item["unit"]: item["updates"] for item in figures["bac_schedule"]}
    title = (
        "BAC of metaworld-policy: 10 updates, those of 5 sub-blocks joined by the bubbling union"
    )
    picture = schedule_figure(schedule, figures["steps"], title)
    picture.savefig(FOLDER / "bac_policy_schedule.png")


def _draw_rows(figures: Mapping[str, Any]) -> None:
    """Action error by speed, a line for each way to save time."""
    figure = Figure(figsize=(9, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row in figures["rows"][1:]:  # the first is what errors are measured by
        name, _, what = row["method"].partition(", ")
        point = row["speedup_batch_1"], row["action_error"], what.partition(" ")[0]
        lines.setdefault(name, []).append(point)
    for name, points in lines.items():
        speeds, errors, counts = zip(*sorted(points), strict=True)
        axes.plot(speeds, errors, marker=_marker(name), color=_color(name), label=name)
        for place in zip(speeds, errors, counts, strict=True):
            axes.annotate(place[2], place[:2], (4, 4), textcoords="offset points", fontsize=7)
    other = figures["action_error_of_other_noise"]
    axes.axhline(other, color=_OTHER, linewidth=1, linestyle=":", label="other noise, uncached")
    axes.set_xlabel("times faster per chunk than uncached, batch 1 (numbers: updates, or steps)")
    axes.set_ylabel("relative action error")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([2, 3, 4, 6, 10, 20, 40], ["2", "3", "4", "6", "10", "20", "40"])
    axes.minorticks_off()
    axes.set_yticks([0.01, 0.02, 0.05, 0.1], ["0.01", "0.02", "0.05", "0.1"])
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(FOLDER / "bac_policy.png")


def _draw_traces(traces: Mapping[str, Sequence[float]]) -> None:
    figure = Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, values in traces.items():
        family, _, updates = name.partition(", ")
        if updates == TRACED:
            style = "--" if _is_last_too(name) else "-"
            axes.plot(values, style, label=family, linewidth=1.2, color=_color(family))
    axes.set_xlabel("step, from noise to actions")
    axes.set_ylabel("relative distance to the uncached run")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(FOLDER / "bac_policy_errors.png")


def _is_last_too(name: str) -> bool:
    return "and the last step" in name


def _color(name: str) -> str:
    return _COLORS[name.partition(" and the last step")[0]]


def _marker(name: str) -> str:
    return "D" if _is_last_too(name) else "o"
