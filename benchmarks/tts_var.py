"""What TTS-VAR is worth: against best-of-N and importance resampling, part by part.

    python -m benchmarks.tts_var [--folder training/shapes-infinity/benchmark]

On held-out prompts with `shapes-infinity`, scored by `shapes-clip` and checked by the analytic
verifier; one prompt per call. Every contender draws N = 1, 2, 4 and 8 candidates to the end, or
those counts that it is asked for. Each row is compared, paired by prompt, with best-of-N of the
same N, and with those best-of-N that take as many tokens and as many seconds: of the counts that
were run, the smallest one that costs no less. What was run already is read from the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import gensift
from benchmarks.contenders import Contender, Record, figures, gain, run_once
from benchmarks.results import FOLDER, publish
from gensift.zoo.shapes.geneval import benchmark

COUNTS = (1, 2, 4, 8)
BASELINE_COUNTS = (1, 2, 4, 8, 16, 32, 64)
PARTS = (2, 4)
"""Counts at which parts are compared."""
SETTINGS = (2,)
"""Counts at which settings are."""
STRENGTHS = (1.0, 4.0, 8.0)
CLUSTERS_ALONE = {
    "widths": (4, 2, 1, 1, 1, 1),
    "cluster_scales": (1, 2),
    "resample_scales": (),
}
REWARDS_ALONE = {
    "widths": (4, 4, 4, 2, 1, 1),
    "cluster_scales": (),
    "resample_scales": (3, 4),
}


@dataclass(frozen=True)
class Entry:
    """A contender, the counts it runs at, and what it is there to show.

    Attributes:
        contender: the search.
        counts: candidates drawn to the end.
        part: "main", "feature", "strength", "ablation" or "ours".
    """

    contender: Contender
    counts: Sequence[int]
    part: str


def _entry(name: str, sampler: str, counts: Sequence[int], part: str, **options: Any) -> Entry:
    return Entry(Contender(name, sampler, "plain", options, steps=None), counts, part)


ENTRIES = (
    _entry("best-of-n", "var-best-of-n", BASELINE_COUNTS, "main"),
    _entry("importance", "var-importance", COUNTS, "main"),
    _entry("tts-var", "tts-var", COUNTS, "main"),
    _entry("tts-var, pool", "tts-var", PARTS, "feature", feature="pool"),
    _entry("tts-var, shared pca", "tts-var", SETTINGS, "feature", feature="shared-pca"),
    *(
        _entry(f"tts-var, strength {s:g}", "tts-var", SETTINGS, "strength", strength=s)
        for s in STRENGTHS
    ),
    _entry("clusters alone", "tts-var", PARTS, "ablation", **CLUSTERS_ALONE),
    _entry("rewards alone", "tts-var", PARTS, "ablation", **REWARDS_ALONE),
    _entry("tts-var, small decodes", "tts-var", COUNTS, "ours", decode_side=4),
    _entry("tts-var, top-k", "tts-var", PARTS, "ours", draw="top-k"),
    _entry(
        *("rewards alone, top-k, small decodes", "tts-var", COUNTS, "ours"),
        **REWARDS_ALONE,
        draw="top-k",
        decode_side=4,
    ),
)


def run_all(
    pipe: Any, rewards: Mapping[str, Any], arguments: argparse.Namespace
) -> dict[tuple[str, int], Record]:
    """Every contender at each of its counts."""
    meanings = benchmark(arguments.prompts_per_category)
    chosen = [e for e in ENTRIES if not arguments.only or e.contender.name in arguments.only]
    return {
        (entry.contender.name, count): run_once(
            arguments.folder, entry.contender, count, pipe, rewards, meanings, [0]
        )
        for entry in chosen
        for count in entry.counts
    }


def rows(records: Mapping[tuple[str, int], Record]) -> list[dict[str, Any]]:
    """Figures of every contender, and its gains over best-of-N."""
    baselines = {count: records["best-of-n", count] for count in BASELINE_COUNTS}
    costs = {count: figures(record) for count, record in baselines.items()}
    parts = {entry.contender.name: entry.part for entry in ENTRIES}
    found = []
    for (name, count), record in records.items():
        own = figures(record)
        row = {"name": name, "part": parts[name], "num_candidates": count, **own}
        del row["nfe_per_prompt"]
        if name != "best-of-n":
            row["against_same_n"] = gain(record, baselines[count])
            for unit in ("tokens", "seconds"):
                key = f"{unit}_per_prompt"
                equal = next((n for n in BASELINE_COUNTS if costs[n][key] >= own[key]), None)
                row[f"against_same_{unit}"] = (
                    None if equal is None else {"best_of": equal, **gain(record, baselines[equal])}
                )
        found.append(row)
    return found


def plot(found: Sequence[Mapping[str, Any]]) -> None:
    """GenEval-mini and reward against tokens and against time."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", sharex="col")
    names = {row["name"] for row in found if row["part"] in ("main", "ours")}
    styles = dict(zip(sorted(names), ("-o", "-s", "--^", ":v", "-D", "--P", "-X"), strict=False))
    for line, (key, label) in enumerate(
        (("geneval_mini", "GenEval-mini, share right"), ("reward", "reward of the winner"))
    ):
        for column, unit in enumerate(("tokens", "seconds")):
            axis = axes[line][column]
            for name, style in styles.items():
                own = [row for row in found if row["name"] == name]
                low, high = zip(*(row[f"{key}_interval_95"] for row in own), strict=True)
                x = [row[f"{unit}_per_prompt"] for row in own]
                (drawn,) = axis.plot(x, [row[key] for row in own], style, label=name, ms=5)
                if name in ("best-of-n", "tts-var"):
                    axis.fill_between(x, low, high, alpha=0.12, color=drawn.get_color())
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(label)
            if line == 1:
                axis.set_xlabel(f"{unit} per prompt")
    axes[0][1].legend(frameon=False, fontsize=8)
    figure.savefig(FOLDER / "tts-var.png", dpi=130)


def main() -> None:
    """Run what is missing, and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("training/shapes-infinity/benchmark"))
    parser.add_argument("--prompts-per-category", type=int, default=21)
    parser.add_argument("--only", nargs="*", help="contenders to run; nothing is published then")
    arguments = parser.parse_args()
    pipe: Any = gensift.load_pipeline("shapes-infinity")
    pipe.set_progress_bar_config(disable=True)
    records = run_all(pipe, {"plain": gensift.load_reward("shapes-clip")}, arguments)
    if arguments.only:
        return
    found = rows(records)
    plot(found)
    publish(
        "tts-var",
        {"prompts": len(benchmark(arguments.prompts_per_category)), "rows": found},
    )


if __name__ == "__main__":
    main()
