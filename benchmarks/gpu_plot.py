"""The figure of `benchmarks.gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot(pipelines: dict[str, Any], file: Path) -> None:
    """Candidates per second at equal budget, and the cost of a row by micro-batch size."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    rate, seconds, memory = figure.subplots(1, 3)
    _bars(rate, pipelines)
    for axis, key, label, unit in (
        (seconds, "seconds_per_row", "ms per denoiser row", 1e3),
        (memory, "peak_memory_mib", "peak memory, GiB", 2**-10),
    ):
        for name, found in pipelines.items():
            rows = found.get("micro_batches", {}).get("rows", [])
            rows = [row for row in rows if row.get(key) is not None]
            values = [row[key] * unit for row in rows]
            axis.plot([row["max_rows"] for row in rows], values, marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("max_rows")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    seconds.legend(frameon=False)
    figure.savefig(file, dpi=130)


def _bars(axis: Any, pipelines: dict[str, Any]) -> None:
    labels, values = [], []
    for name, found in pipelines.items():
        for row in found.get("equal_budget", {}).get("rows", []):
            units = " and ".join(row["equal_in"])
            how = "" if row["name"] == "best-of-n" else f", equal {units}"
            labels.append(f"{name}: {row['name']}{how}")
            values.append(row["candidates_per_second"])
    axis.barh(range(len(values)), values)
    axis.set_yticks(range(len(values)), labels, fontsize=6)
    axis.invert_yaxis()
    axis.set_xlabel("candidates per second")
