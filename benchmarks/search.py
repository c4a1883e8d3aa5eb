"""One sample, best-of-N and TTSnap on held-out prompts, at equal cost.

    python -m benchmarks.search [--prompts-per-category 12] [--seeds 2]

Every search draws with `shapes-flux` and judges with `shapes-clip`; what it found is then checked
by the analytic verifier, which the searches never see. TTSnap and shorter best-of-N runs get as
many candidates as fit into what best-of-N costs: counted in FLOPs (denoiser rows of both guidance
branches, decodes and rewards) and, for TTSnap, in measured seconds too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

import gensift
from benchmarks.results import FOLDER, interval, publish
from gensift.pipelines.loading import call_defaults
from gensift.zoo.shapes.geneval import benchmark, category, score
from gensift.zoo.shapes.grammar import Meaning
from gensift.zoo.shapes.verifier import is_true
from samplers.diffusion.attach import PipelineCall
from samplers.diffusion.prices import measure_prices
from samplers.diffusion.schedule import Prices, largest_search, plan_stages, search_cost
from samplers.diffusion.search import DiffusionSearch

BUDGETS = (4, 10, 20)
FEWER_STEPS = 10


@dataclass(frozen=True)
class Contender:
    """One way to spend a budget: `sampler` with `num_candidates` and `steps`."""

    name: str
    budget: int
    sampler: type[DiffusionSearch]
    num_candidates: int
    steps: int
    reward: str = "shapes-clip"


@dataclass
class Record:
    """What a contender did: one entry per prompt and seed, in the same order for all."""

    meanings: list[Meaning] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    nfe: int = 0
    decodes: int = 0


def contenders(pipe: Any, reward: Any) -> list[Contender]:
    """One sample, and per budget best-of-N and what fits into its cost."""
    steps = int(call_defaults(pipe)["num_inference_steps"])
    found = [Contender("one sample", 1, gensift.BestOfN, 1, steps)]
    flops, seconds = prices(pipe, reward, "flops"), prices(pipe, reward, "seconds")
    for budget in BUDGETS:
        found.append(Contender("best-of-n", budget, gensift.BestOfN, budget, steps))
        shorter = fitting(gensift.BestOfN, FEWER_STEPS, flops, budget, steps)
        name = f"best-of-n, {FEWER_STEPS} steps"
        found.append(Contender(name, budget, gensift.BestOfN, shorter, FEWER_STEPS))
        for unit, price in (("FLOPs", flops), ("seconds", seconds)):
            count = fitting(gensift.TTSnap, steps, price, budget, steps)
            found.append(Contender(f"ttsnap, equal {unit}", budget, gensift.TTSnap, count, steps))
    best = replace(found[-4], name="best-of-n, verifier as reward", reward="shapes-verifier")
    return [*found, best]


def prices(pipe: Any, reward: Any, unit: Any) -> Prices:
    """What a step and a verdict cost here; the smaller of three measurements, to shed noise."""
    arguments = call_defaults(pipe) | {"prompt": ["a red circle left of a blue square"]}
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), arguments)
    found = [measure_prices(call, reward, unit) for _ in range(3 if unit == "seconds" else 1)]
    return Prices(step=min(p.step for p in found), verdict=min(p.verdict for p in found))


def fitting(
    sampler: type[DiffusionSearch], steps: int, price: Prices, budget: int, full_steps: int
) -> int:
    """Candidates of `sampler` that cost at most what best-of-`budget` does."""
    allowed = search_cost(plan_stages((), full_steps, budget, 1), price)
    checkpoints = sampler(reward=None).checkpoints(steps)
    return largest_search(checkpoints, steps, 1, price, allowed * (1 + 1e-9))


def run(
    contender: Contender,
    pipe: Any,
    rewards: dict[str, Any],
    meanings: Sequence[Meaning],
    seeds: int,
) -> Record:
    """Search once per prompt and seed, one prompt at a time as a user would."""
    sampler = contender.sampler(rewards[contender.reward], num_candidates=contender.num_candidates)
    record = Record()
    tasks = [(meaning, seed) for seed in range(seeds) for meaning in meanings]
    for index, (meaning, seed) in enumerate(tqdm(tasks, desc=contender.name, unit="prompt")):
        # Every prompt has seeds of its own, shared by all contenders.
        own = [gensift.candidate_seed(seed, index, c) for c in range(contender.num_candidates)]
        start = time.perf_counter()
        output = sampler(
            pipe,
            str(meaning),
            seeds=[own],
            num_inference_steps=contender.steps,
        )
        record.seconds.append(time.perf_counter() - start)
        record.meanings.append(meaning)
        record.correct.append(float(is_true(np.asarray(output.images[0]), meaning)))
        record.rewards.append(output.rewards[0])
        record.nfe += output.cost.nfe
        record.decodes += output.cost.decodes
    return record


def figures(contender: Contender, record: Record, baselines: dict[str, Record]) -> dict[str, Any]:
    """A row of the table; `baselines` are compared prompt by prompt."""
    count = len(record.meanings)
    by_prompt: dict[Meaning, list[float]] = {}
    for meaning, value in zip(record.meanings, record.correct, strict=True):
        by_prompt.setdefault(meaning, []).append(value)
    result = score(by_prompt)
    rewards = np.array(record.rewards)
    return {
        "name": contender.name,
        "budget": contender.budget,
        "num_candidates": contender.num_candidates,
        "num_inference_steps": contender.steps,
        "reward_name": contender.reward,
        "nfe_per_prompt": record.nfe / count,
        "decodes_per_prompt": record.decodes / count,
        "seconds_per_prompt": float(np.median(record.seconds)),
        "reward": float(rewards.mean()),
        "reward_interval_95": interval(rewards),
        "geneval_mini": result.overall,
        "geneval_mini_interval_95": (result.low, result.high),
        "by_category": result.by_category,
        "gain_over": {name: gain(record, other) for name, other in baselines.items()},
    }


def gain(record: Record, other: Record) -> dict[str, Any]:
    """Difference in GenEval-mini, paired by prompt; every category weighs the same."""
    difference = np.array(record.correct) - np.array(other.correct)
    names = np.array([category(meaning) for meaning in record.meanings])
    rng = np.random.default_rng(0)
    groups = [difference[names == name] for name in dict.fromkeys(names)]
    draws = np.stack([rng.choice(g, size=(2000, len(g))).mean(1) for g in groups]).mean(0)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "geneval_mini": float(np.mean([group.mean() for group in groups])),
        "interval_95": (float(low), float(high)),
    }


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """GenEval-mini against denoiser evaluations and against wall time."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    names = [n for n in dict.fromkeys(row["name"] for row in rows) if "verifier" not in n]
    for axis, key, label in zip(
        axes,
        ("nfe_per_prompt", "seconds_per_prompt"),
        ("denoiser rows (NFE) per prompt", "seconds per prompt"),
        strict=True,
    ):
        for name in names:
            # One sample is where best-of-N begins.
            chosen = [r for r in rows if r["name"] == name or (r["budget"] == 1 and "best" in name)]
            if name == "one sample":
                continue
            chosen.sort(key=lambda row: row[key])
            axis.errorbar(
                [row[key] for row in chosen],
                [100 * row["geneval_mini"] for row in chosen],
                yerr=_whiskers(chosen),
                label=name,
                marker="o",
                capsize=2,
                linewidth=1.4,
            )
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("GenEval-mini, %")
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(FOLDER / "search.png", dpi=130)


def _whiskers(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    means = np.array([row["geneval_mini"] for row in rows])
    bounds = np.array([row["geneval_mini_interval_95"] for row in rows])
    return 100 * np.abs(bounds.T - means)


def main() -> None:
    """Run the comparison and publish it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts-per-category", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    pipe = gensift.load_pipeline("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    names = ("shapes-clip", "shapes-verifier")
    rewards = {name: gensift.load_reward(name) for name in names}
    meanings = benchmark(arguments.prompts_per_category)
    records: dict[tuple[str, int], Record] = {}
    runs: dict[Contender, Record] = {}
    rows = []
    for contender in contenders(pipe, rewards["shapes-clip"]):
        # Two units of cost often allow the same number of candidates.
        same = replace(contender, name="", budget=0)
        if same not in runs:
            runs[same] = run(contender, pipe, rewards, meanings, arguments.seeds)
        record = records[contender.name, contender.budget] = runs[same]
        same_budget = records.get(("best-of-n", contender.budget))
        baselines = {"one sample": records["one sample", 1]}
        if same_budget is not None:
            baselines[f"best-of-{contender.budget}"] = same_budget
        rows.append(figures(contender, record, baselines))
    count = len(meanings)
    publish("search", {"prompts": count, "seeds": arguments.seeds, "rows": rows})
    plot(rows)


if __name__ == "__main__":
    main()
