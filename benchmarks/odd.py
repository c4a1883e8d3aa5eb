"""What ODD is worth: pass@k on Countdown, next to the simple ways to get different answers.

    python -m benchmarks.odd [--folder training/countdown-llada/benchmark] [--only grid ...]

500 held-out problems, 16 answers each, two sampling seeds; `countdown-llada` as it ships. Pass@k
looks at the first k rows, whose order matters to ODD. Differences are paired by problem. Chosen on
163 other held-out problems: the strength, the mildest within a standard error of the best one, and
the best combination. What was drawn already is read from the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import gensift
from apps.training.evaluation.answers import (
    mean_interval,
    num_distinct,
    paired_interval,
    pass_at_k,
)
from apps.training.evaluation.countdown_llada import Answers, num_true_solutions
from benchmarks.results import FOLDER, publish
from benchmarks.text_arms import SAMPLES, Arm, answers_of
from benchmarks.text_overhead import overhead
from gensift.pipelines.loading import Dtype
from gensift.zoo.countdown.problems import Problem
from gensift.zoo.countdown.split import test_problems, validation_problems

KS = (1, 4, 8, 16)
TEMPERATURES = (0.0, 0.5, 1.0, 1.5, 2.0)
ALPHAS = (2.0, 8.0, 16.0, 64.0)
SEEDS = (0, 1)
VALIDATION_SEEDS = (10, 11)
PUBLISHED_ALPHA = 16.0
OTHERS = ("dpp", "orthogonal-projection", "random-probe")
ABLATIONS: tuple[dict[str, Any], ...] = (
    {"quality_gradient": False},
    {"on_duplicate": "skip"},
    {"on_duplicate": "official"},
    {"pooling": "mean"},
    {"pooling": "positional"},
    {"features": "embeddings"},
    {"gate": "confidence"},
    {"confidence_source": "clean"},
)
RANDOM = {"confidence": "random"}

ARMS = (
    *(Arm("grid", t, a) for t in TEMPERATURES for a in (0.0, *ALPHAS)),
    *(Arm("strategy", 1.0, a, {"strategy": name}) for name in OTHERS for a in (5.0,)),
    *(Arm("order", t, a, RANDOM) for t in (0.5, 1.0, 1.5) for a in (0.0, 8.0, 16.0, 64.0)),
    *(Arm("order", 1.0, 0.0, {"confidence": name}) for name in ("margin", "entropy")),
    *(Arm("ablation", 1.0, PUBLISHED_ALPHA, options) for options in ABLATIONS),
)
DTYPE: Dtype = "bfloat16"
"""Twice as fast as float32 on this CPU; what is right or wrong hardly changes."""
BASE = Arm("grid", 1.0, 0.0)
CANDIDATES = (
    *(Arm("grid", 1.0, a) for a in (0.0, *ALPHAS)),
    *(Arm("order", t, a, RANDOM) for t in (0.5, 1.0, 1.5) for a in (0.0, 8.0, 16.0, 64.0)),
)
"""What is chosen from on the validation problems."""


def solved(answers: Sequence[Answers], k: int) -> Tensor:
    """Share of the seeds whose first `k` answers hold a right one, float64 `(problems,)`."""
    return torch.stack([pass_at_k(one.right, k, "prefix") for one in answers]).mean(0)


def row(arm: Arm, answers: Sequence[Answers], base: Sequence[Answers]) -> dict[str, Any]:
    """Figures of an arm, and its gain in pass@16 over another one."""
    found: dict[str, Any] = {
        "name": arm.name,
        "part": arm.part,
        "temperature": arm.temperature,
        "alpha": arm.alpha,
        **arm.options,
    }
    for k in KS:
        found[f"pass_at_{k}"] = _interval(mean_interval(solved(answers, k)))
    gain = paired_interval(solved(answers, SAMPLES), solved(base, SAMPLES))
    found["gain_in_pass_at_16"] = _interval(gain)
    counts: dict[str, Callable[[Problem, list[str]], int]] = {
        "true_solutions": num_true_solutions,
        "different": lambda problem, texts: num_distinct(texts),
    }
    for name, count in counts.items():
        values = [
            [float(count(*pair)) for pair in zip(one.problems, one.texts, strict=True)]
            for one in answers
        ]
        found[name] = _interval(mean_interval(torch.tensor(values).mean(0)))
    found["share_right"] = float(torch.stack([a.right.double().mean() for a in answers]).mean())
    return found


def _interval(found: Any) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def measured(
    pipe: Any, arms: Sequence[Arm], problems: Sequence[Problem], seeds: Sequence[int], folder: Path
) -> dict[str, list[Answers]]:
    """Answers of every arm by its name, per seed."""
    return {
        arm.name: [answers_of(pipe, arm, problems, seed, folder) for seed in seeds] for arm in arms
    }


def choose(answers: Mapping[str, list[Answers]], allowed: Sequence[Arm]) -> Arm:
    """The first arm, from the mildest on, that is within a standard error of the best pass@16."""
    passes = [solved(answers[arm.name], SAMPLES) for arm in allowed]
    best = max(passes, key=lambda values: float(values.mean()))
    return next(
        arm for arm, own in zip(allowed, passes, strict=True) if _is_within_error(own, best)
    )


def _is_within_error(values: Tensor, best: Tensor) -> bool:
    behind = best - values
    return float(behind.mean()) <= float(behind.std()) / len(behind) ** 0.5


def report(
    test: Mapping[str, list[Answers]], validation: Mapping[str, list[Answers]]
) -> dict[str, Any]:
    """All rows: each against plain decoding at the same temperature, in the usual order."""
    rows = []
    for arm in ARMS:
        base = Arm("grid", arm.temperature, 0.0)
        rows.append(row(arm, test[arm.name], test[base.name]))
    alphas = [arm for arm in CANDIDATES if arm.part == "grid" and arm.alpha > 0]
    chosen = choose(validation, alphas)
    best = max(CANDIDATES, key=lambda arm: float(solved(validation[arm.name], SAMPLES).mean()))
    levers = [
        Arm("", temperature, alpha, options)
        for temperature in dict.fromkeys((1.0, best.temperature))
        for options in ({}, RANDOM)
        for alpha in (0.0, chosen.alpha)
    ]
    return {
        "rows": rows,
        "validation": [row(arm, validation[arm.name], validation[BASE.name]) for arm in CANDIDATES],
        "chosen_alpha": row(chosen, test[chosen.name], test[BASE.name]),
        "best_combination": row(best, test[best.name], test[BASE.name]),
        "contributions": [row(arm, test[arm.name], test[BASE.name]) for arm in levers],
    }


def plot(rows: Sequence[Mapping[str, Any]]) -> None:
    """Pass@16 against the share of right answers, and against k."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = {
        "plain, T = 0 to 2": [r for r in rows if r["part"] == "grid" and r["alpha"] == 0],
        **{
            f"ODD, alpha = {a:g}": [r for r in rows if r["part"] == "grid" and r["alpha"] == a]
            for a in ALPHAS
        },
        "random order": [r for r in rows if r.get("confidence") == "random" and r["alpha"] == 0],
        "random order + ODD 8": [
            r for r in rows if r.get("confidence") == "random" and r["alpha"] == 8
        ],
    }
    markers = ("o", "s", "^", "v", "D", "P", "X")
    for (label, own), marker in zip(groups.items(), markers, strict=True):
        x = [100 * r["share_right"] for r in own]
        y = [100 * r["pass_at_16"]["mean"] for r in own]
        left.plot(x, y, "-", marker=marker, ms=5, label=label)
        at_one = [r for r in own if r["temperature"] == 1]
        if at_one:
            curve = [100 * at_one[0][f"pass_at_{k}"]["mean"] for k in KS]
            right.plot(KS, curve, "-", marker=marker, ms=5, label=f"{label.split(',')[0]}")
    left.set_xlabel("right answers, %")
    left.set_ylabel("pass@16, %")
    left.legend(frameon=False, fontsize=8)
    right.set_xscale("log", base=2)
    right.set_xticks(KS, [str(k) for k in KS])
    right.set_xlabel("k (temperature 1)")
    right.set_ylabel("pass@k, %")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(FOLDER / "odd.png", dpi=130)


def main() -> None:
    """Run what is missing, and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("training/countdown-llada/benchmark"))
    parser.add_argument("--model", default="countdown-llada")
    parser.add_argument("--only", nargs="*", help="parts to run; nothing is published then")
    arguments = parser.parse_args()
    pipe: Any = gensift.load_pipeline(arguments.model, device="cpu", dtype=DTYPE)
    parts = arguments.only or [*{arm.part for arm in ARMS}, "validation"]
    arms = [arm for arm in ARMS if arm.part in parts]
    test = measured(pipe, arms, test_problems(), SEEDS, arguments.folder / "test")
    if "validation" not in parts:
        return
    validation = measured(
        *(pipe, CANDIDATES, validation_problems(), VALIDATION_SEEDS),
        arguments.folder / "validation",
    )
    if arguments.only:
        return
    found = report(test, validation)
    plot(found["rows"])
    whole: Any = gensift.load_pipeline(arguments.model, device="cpu")
    publish("odd", {"dtype": DTYPE, **found, "overhead": overhead(whole)})


if __name__ == "__main__":
    main()
