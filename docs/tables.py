"""Rewrites the generated tables in `docs/*.md`, between `<!-- KIND NAME -->` and `<!-- end -->`.

python docs/tables.py           rewrites them
python docs/tables.py --check   fails if one is out of date

Kinds: `options ttsnap` (options of a sampler or a training), `cli generate` (command line options),
`benchmark ttsnap` (a published benchmark), `caches ablation` (a part of the cache benchmark),
`scales searches` (a part of the benchmark of next-scale searches), `answers pass16`,
`answers order` (parts of the benchmark of diverse answers), `decoding zoo` (a model in that of text
decoding), `flows shapes-bfm` (a model, or a comparison, in that of blockwise flow matching),
`policy methods`, `policy tasks`, `policy latency` (parts of that of robot policies).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from apps.commands.calibrate import CONFIGS as CALIBRATE_CONFIGS
from apps.commands.calibrate import NAMES as CALIBRATE_NAMES
from apps.commands.calibrate import PANELS as CALIBRATE_PANELS
from apps.commands.command_line import flag, rows_by_name
from apps.jobs.options import NAMES, PANELS, GenerateOptions
from apps.training.bfm.options import BFMTraining
from apps.web.options import PANELS as APP_PANELS
from apps.web.options import AppOptions
from gensift.config import describe
from samplers.registry import SAMPLERS

DOCS = Path(__file__).parent
TRAININGS = {"train-bfm": BFMTraining}
SECTION = re.compile(r"(<!-- (\w+) ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def options(sampler: str) -> str:
    """What `-o key=value` sets for a sampler, or what a training takes."""
    cls: Any = TRAININGS[sampler] if sampler in TRAININGS else SAMPLERS.get(sampler).config_class
    rows = [
        [f"`{row.name}`", f"`{row.type}`", _default(row.default), row.help] for row in describe(cls)
    ]
    return table(["option", "type", "default", "meaning"], rows)


def cli(command: str) -> str:
    """Options of a command, in the order of its help."""
    known: dict[str, tuple[Any, Any, Any]] = {
        "generate": (GenerateOptions, PANELS, NAMES),
        "calibrate": (CALIBRATE_CONFIGS, CALIBRATE_PANELS, CALIBRATE_NAMES),
        "app": (AppOptions, APP_PANELS, {}),
    }
    configs, panels, names = known[command]
    rows = rows_by_name(configs)
    lines = [
        [
            ", ".join(f"`{n}`" for n in names.get(field, (flag(field),))),
            _owner(panel) + rows[field].help,
        ]
        for panel, fields in panels.items()
        for field in fields
    ]
    return table(["option", "meaning"], lines)


def _owner(panel: str) -> str:
    """Whose options those of a panel are, where only one of several things has them."""
    _, is_owned, owner = panel.partition("Options of ")
    return f"of {owner}: " if is_owned else ""


RELATIONS = {"=": "", ">": "over ", "<": "under "}


def benchmark(name: str) -> str:
    """The rows of the online part of a search benchmark."""
    rows = json.loads((DOCS / "benchmarks" / f"{name}.json").read_text())["online"]
    lines = []
    for row in rows:
        gains = row["gain_over_best_of_n"]
        low, high = gains["reward_interval_95"]
        lines.append(
            [
                f"{row['name']} (budget {row['budget']})",
                str(row["num_candidates"]),
                f"{row['nfe_per_prompt']:.0f}",
                f"{row['decodes_per_prompt']:.0f} + {row['preview_decodes_per_prompt']:.0f}",
                f"{row['seconds_per_prompt']:.2f}",
                f"{row['reward']:.4f}",
                f"{gains['reward']:+.4f} ({low:+.4f} to {high:+.4f})",
                f"{RELATIONS[row['equivalent_relation']]}{row['equivalent']:.1f}",
                _percent(row["geneval_mini"], row["geneval_mini_interval_95"]),
            ]
        )
    header = ["search", "candidates", "NFE", "decodes + previews", "s", "reward"]
    return table([*header, "over best-of-N", "best-of-N with", "GenEval-mini, %"], lines)


def caches(part: str) -> str:
    """Rows of the cache benchmark: its contenders, or the ablation."""
    figures = json.loads((DOCS / "benchmarks" / "caches.json").read_text())
    rows = sorted(figures[part], key=lambda row: (row["method"], row["speedup"]))
    names = ["method", "setting"] if part == "contenders" else ["setting"]
    lines = [
        [
            *(row[name] for name in names),
            f"{row['speedup']:.2f}",
            f"{row['psnr']:.1f}",
            f"{row['feature_distance']:.4f}",
            f"{100 * row['geneval_mini']:.0f}",
        ]
        for row in (rows if part == "contenders" else figures[part])
    ]
    return table([*names, "speed-up", "PSNR, dB", "feature distance", "GenEval-mini, %"], lines)


SCALES_PARTS = {
    "searches": ("main", "ours"),
    "settings": ("feature", "strength", "ablation"),
}


def scales(name: str) -> str:
    """Rows of the benchmark of next-scale searches: the searches, or settings and parts."""
    found = json.loads((DOCS / "benchmarks" / "tts-var.json").read_text())["rows"]
    lines = [
        [
            row["name"],
            str(row["num_candidates"]),
            f"{row['tokens_per_prompt']:,.0f}",
            f"{row['decodes_per_prompt']:.0f} + {row['preview_decodes_per_prompt']:.0f}",
            f"{row['seconds_per_prompt']:.2f}",
            f"{row['reward']:.4f}",
            _percent(row["geneval_mini"], row["geneval_mini_interval_95"]),
            *(_over(row.get(f"against_same_{unit}"), row) for unit in ("n", "tokens", "seconds")),
        ]
        for row in found
        if row["part"] in SCALES_PARTS[name]
    ]
    header = ["search", "N", "tokens", "decodes + reduced", "s", "reward", "GenEval-mini, %"]
    return table([*header, "over same N", "over same tokens", "over same time"], lines)


def _over(gain: Any, row: Any) -> str:
    """Gain in reward over a best-of-N, and which one that is."""
    if gain is None:
        return ""
    low, high = gain["reward_interval_95"]
    count = gain.get("best_of", row["num_candidates"])
    return f"{gain['reward']:+.3f} ({low:+.3f} to {high:+.3f}), best of {count}"


def answers(part: str) -> str:
    """The benchmark of diverse answers: pass@16 by strength and temperature, or rows of a part."""
    found = json.loads((DOCS / "benchmarks" / "odd.json").read_text())
    if part == "grid":
        return _pass_at_16([row for row in found["rows"] if row["part"] == "grid"])
    rows = found[part] if part in found else [r for r in found["rows"] if r["part"] == part]
    lines = [
        [
            row["name"],
            *(f"{100 * row[f'pass_at_{k}']['mean']:.1f}" for k in (1, 4, 8, 16)),
            _points(row["gain_in_pass_at_16"]),
            f"{100 * row['share_right']:.1f}",
            f"{row['true_solutions']['mean']:.2f}",
            f"{row['different']['mean']:.1f}",
        ]
        for row in rows
    ]
    passes = [f"pass@{k}, %" for k in (1, 4, 8, 16)]
    return table(
        ["setting", *passes, "gain in pass@16", "right of all, %", "true solutions", "different"],
        lines,
    )


def _pass_at_16(rows: Sequence[Any]) -> str:
    temperatures = sorted({row["temperature"] for row in rows})
    by_key = {(row["alpha"], row["temperature"]): row for row in rows}
    lines = [
        [
            "plain" if alpha == 0 else f"ODD, alpha {alpha:g}",
            *(
                f"{100 * by_key[alpha, t]['pass_at_16']['mean']:.1f}"
                + (f" ({_points(by_key[alpha, t]['gain_in_pass_at_16'])})" if alpha else "")
                for t in temperatures
            ),
        ]
        for alpha in sorted({row["alpha"] for row in rows})
    ]
    return table(["pass@16, %", *(f"T = {t:g}" for t in temperatures)], lines)


def _points(found: Any) -> str:
    return f"{100 * found['mean']:+.1f}, {100 * found['low']:+.1f} to {100 * found['high']:+.1f}"


def decoding(model: str) -> str:
    """Rows of the benchmark of text decoding, of the zoo's model or that of random weights."""
    models = json.loads((DOCS / "benchmarks" / "text_speed.json").read_text())["models"]
    rows = models["countdown-llada"] if model == "zoo" else list(models.values())[1]
    lines = [
        [
            row["name"],
            f"{row['forward_passes_per_text']:.1f}",
            f"{row['positions_computed_per_text']:,.0f}",
            f"{row['response_tokens_per_second']:,.1f}",
            f"{100 * row['agreement']:.1f}",
            f"{100 * row['agreement_with_no_cache']:.1f}",
        ]
        for row in rows
    ]
    work = ["forward passes", "positions computed", "response tokens/s"]
    return table(["setting", *work, "agreement, %", "with one token per step, %"], lines)


def flows(part: str) -> str:
    """The benchmark of blockwise flow matching: rows of a model, or a comparison with the dense."""
    found = json.loads((DOCS / "benchmarks" / "bfm.json").read_text())
    if part in ("at_equal_distance", "converted_against_dense"):
        return _at_equal_distance(found[part])
    if part == "converted_kept":
        return _converted_kept(found[part])
    lines = [
        [
            row["mode"],
            str(row["steps"]),
            f"{row['frechet']:.3f}",
            f"{100 * row['verified']:.1f}",
            f"{row['mmacs']:,.0f}",
            f"{1e3 * row['seconds']:.1f}",
        ]
        for row in found["rows"]
        if row["model"] == part
    ]
    header = ["mode", "steps", "Frechet distance", "verified, %", "MMACs a picture"]
    return table([*header, "ms a picture"], lines)


def _at_equal_distance(entries: Sequence[Any]) -> str:
    lines = []
    for entry in entries:
        dense, rival = entry["dense"], entry.get("rival")
        line = [f"{dense['mode']} {dense['steps']}", f"{dense['frechet']:.3f}"]
        if rival is None:
            lines.append([*line, "none as near", "", "", ""])
            continue
        line += [f"{rival['mode']} {rival['steps']}", f"{rival['frechet']:.3f}"]
        lines.append([*line, f"{entry['fewer_macs']:.2f}", f"{entry['less_time']:.2f}"])
    header = ["dense, steps", "distance", "cheapest as near, steps", "its distance"]
    return table([*header, "times fewer MACs", "times less time"], lines)


def _converted_kept(entries: Sequence[Any]) -> str:
    lines = [
        [
            entry["mode"],
            str(entry["steps"]),
            f"{100 * (entry['frechet_over_teacher'] - 1):+.1f}",
            f"{entry['fewer_macs']:.2f}",
            f"{entry['less_time']:.2f}",
        ]
        for entry in entries
    ]
    header = ["mode", "steps", "distance against the teacher's, %"]
    return table([*header, "times fewer MACs", "times less time"], lines)


def policy(part: str) -> str:
    """The benchmark of robot policies: all methods, their success by task, or their latency."""
    figures = json.loads((DOCS / "benchmarks" / "bac_policy.json").read_text())
    if part == "latency":
        lines = [
            [name, f"{times['p50']:.0f}", f"{times['p99']:.0f}"]
            for name, times in figures["latency_ms"].items()
        ]
        return table(["method", "p50, ms", "p99, ms"], lines)
    rows = figures["rows"]
    if part == "tasks":
        tasks = list(rows[0]["success_by_task"])
        lines = [
            [row["method"], *(f"{row['success_by_task'][task]:.0f}" for task in tasks)]
            for row in rows
        ]
        return table(["method", *tasks], lines)
    lines = [
        [
            row["method"],
            f"{row['success']:.1f}",
            *(f"{row[f'speedup_batch_{batch}']:.2f}" for batch in (1, 16)),
            f"{1000 * row['seconds_batch_1']:.0f}",
            f"{row['action_error']:.3f}",
            "" if row["mean_updates"] is None else f"{row['mean_updates']:.1f}",
        ]
        for row in rows
    ]
    speeds = ["times faster, batch 1", "batch 16", "ms per chunk, batch 1"]
    return table(["method", "success, %", *speeds, "action error", "updates, mean"], lines)


KINDS: dict[str, Callable[[str], str]] = {
    "options": options,
    "cli": cli,
    "benchmark": benchmark,
    "caches": caches,
    "scales": scales,
    "answers": answers,
    "decoding": decoding,
    "flows": flows,
    "policy": policy,
}


def filled(text: str) -> str:
    """`text` with every generated section rewritten."""
    return SECTION.sub(lambda m: f"{m[1]}{KINDS[m[2]](m[3])}{m[4]}", text)


def outdated() -> list[Path]:
    """Pages whose tables differ from what the code says now."""
    return [page for page in DOCS.glob("*.md") if filled(page.read_text()) != page.read_text()]


def _percent(value: float, bounds: Sequence[float]) -> str:
    return f"{100 * value:.1f} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"


def _default(value: Any) -> str:
    if value is MISSING or value is None:
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def main() -> None:
    """Rewrite or check."""
    pages = outdated()
    if "--check" in sys.argv:
        if pages:
            sys.exit(f"out of date: {', '.join(p.name for p in pages)}; run: python docs/tables.py")
        return
    for page in pages:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
