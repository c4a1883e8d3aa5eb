"""What noise-aware pruning is worth: ranking, equivalent candidates, and peers at equal cost.

    python -m benchmarks.ttsnap --recording training/noise-aware/held-out [--seeds 1]

Three parts, all on held-out prompts with `shapes-flux` and `shapes-clip`:

* ranking: Kendall's tau within a prompt between the score of the estimate after each step and the
  final score, for the reward as it is and for its noise-aware version;
* offline: TTSnap played through on the recorded pool, many draws per prompt, at the cost of
  best-of-4, 10 and 20 (denoiser, decodes and rewards, in FLOPs and in seconds); the figure is the
  number of candidates with which best-of-N would do as well, by the exact formula for the pool;
* online: the searches themselves, one prompt per call, checked by the analytic verifier too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import gensift
from benchmarks.contenders import Contender, Record, figures, gain, largest_count, prices, run_once
from benchmarks.results import FOLDER, publish
from gensift.zoo.shapes.geneval import benchmark
from rewards.noise_aware.recording import Recording
from samplers.diffusion.schedule import Checkpoint, Prices, largest_search
from samplers.diffusion.ttsnap import CLEAN_SCHEDULE, NOISE_AWARE_SCHEDULE
from samplers.recipes.noise_aware_evaluation import (
    EARLY,
    early_mean,
    record_held_out_prompts,
    tau_per_step,
)
from samplers.tuning.pool import best_of_n_curve, equivalent_count
from samplers.tuning.recordings import ScoreTensors
from samplers.tuning.scored_recording import scored
from samplers.tuning.search import TuneConfig, tune
from samplers.tuning.simulation import Draws

BUDGETS = (4, 10, 20)
STEPS = 20
Floats = NDArray[np.float64]

CONTENDERS = (
    Contender("best-of-n", "best-of-n"),
    Contender("best-of-n, 10 steps", "best-of-n", steps=10),
    Contender("ttsnap", "ttsnap"),
    Contender("ttsnap, plain reward", "ttsnap", reward="plain"),
    Contender("ttsnap, plain reward, full VAE", "ttsnap", "plain", {"preview_decoder": "vae"}),
    Contender("fk-steering", "fk-steering"),
    Contender("svdd", "svdd"),
    Contender("zero-order", "zero-order"),
    Contender("search-over-paths", "search-over-paths"),
    Contender("local-refine", "local-refine"),
)


def load_scores(folder: Path, rewards: Mapping[str, Any]) -> dict[str, ScoreTensors]:
    """Scores of the pool by the plain and by the noise-aware reward; kept beside the recording."""
    recording = Recording(folder)
    return {name: scored(recording, reward) for name, reward in rewards.items()}


def offline(
    scores: ScoreTensors, checkpoints: Sequence[Checkpoint], price: Prices, draws: int = 200
) -> list[dict[str, Any]]:
    """One schedule at each budget: candidates, reward, and what best-of-N would need."""
    curve = best_of_n_curve(scores.values())
    rows = []
    for budget in BUDGETS:
        allowed = budget * (STEPS * price.step + price.verdict)
        count = largest_search(checkpoints, STEPS, 1, price, allowed * (1 + 1e-9))
        row: dict[str, Any] = {"budget": budget, "num_candidates": count}
        if count > scores.num_images:
            rows.append(row | {"equivalent": None, "why": "more candidates than the pool holds"})
            continue
        rewards = Draws(scores, draws, seed=0, most=count).rewards(checkpoints, count)
        low, high = _equivalent_interval(curve, rewards)
        row["reward"] = float(rewards.mean())
        row["equivalent"] = equivalent_count(curve.mean(0), float(rewards.mean())).count
        row["equivalent_interval_95"] = (low, high)
        row["ratio"] = row["equivalent"] / budget
        rows.append(row)
    return rows


def tuned_splits(scores: ScoreTensors, price: Prices, splits: int = 5) -> list[dict[str, Any]]:
    """Tune on random halves of the prompts and judge the recommendation on the other halves."""
    rows = []
    for split in range(splits):
        order = np.random.default_rng(split).permutation(scores.num_prompts)
        half = scores.num_prompts // 2
        ours, others = (of_prompts(scores, part) for part in (order[:half], order[half:]))
        for budget in BUDGETS:
            allowed = budget * (STEPS * price.step + price.verdict) * (1 + 1e-9)
            found = tune(ours, price, TuneConfig(budget=allowed, seed=split))
            row: dict[str, Any] = {"split": split, "budget": budget, "prunes": found.prunes}
            if found.prunes:
                count = found.num_candidates
                won = Draws(others, 200, seed=1, most=count).rewards(found.checkpoints, count)
                row["checkpoints"] = [(c.step_index, c.keep) for c in found.checkpoints]
                row["predicted_gain"] = found.gain.mean if found.gain else None
                plain = best_of_n_curve(others.values(), budget)[:, -1]
                row["held_out_gain"] = float((won - plain).mean())
            rows.append(row)
    return rows


def of_prompts(scores: ScoreTensors, prompts: NDArray[np.int64]) -> ScoreTensors:
    """The scores of some prompts, for a single reward."""
    (parts,) = scores.rewards.values()
    return ScoreTensors.single(parts.early[prompts], parts.final[prompts])


def _equivalent_interval(curve: Floats, rewards: Floats) -> tuple[float, float]:
    """Prompts resampled, for the search and for best-of-N alike."""
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(500):
        rows = rng.integers(len(rewards), size=len(rewards))
        counts.append(equivalent_count(curve[rows].mean(0), float(rewards[rows].mean())).count)
    low, high = np.quantile(counts, [0.025, 0.975])
    return float(low), float(high)


def online(
    pipe: Any, rewards: Mapping[str, Any], price: Prices, curve: Floats, arguments: Any
) -> list[dict[str, Any]]:
    """Every contender at every budget, with the same prompts."""
    meanings = benchmark(arguments.prompts_per_category)
    rows: list[dict[str, Any]] = []
    baselines: dict[int, Record] = {}
    chosen = [c for c in CONTENDERS if not arguments.only or c.name in arguments.only]
    for budget in BUDGETS:
        allowed = budget * (STEPS * price.step + price.verdict)
        for contender in chosen:
            count = largest_count(contender, pipe, rewards, price, allowed)
            if count == 0:
                continue
            record = run_once(
                arguments.recording / "online",
                contender,
                count,
                pipe,
                rewards,
                meanings,
                range(arguments.seeds),
            )
            baselines.setdefault(budget, record)
            row = {"name": contender.name, "budget": budget, "num_candidates": count}
            row |= {"num_inference_steps": contender.steps} | figures(record)
            row["equivalent"] = equivalent_count(curve, row["reward"]).count
            row["gain_over_best_of_n"] = gain(record, baselines[budget])
            rows.append(row)
    return rows


def plot_ranking(tau: Mapping[str, Sequence[float]], sigmas: Sequence[float]) -> None:
    """Kendall's tau over the steps."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    labels = {"plain": "reward as it is", "noise-aware": "noise-aware"}
    for name, marker in (("plain", "o"), ("noise-aware", "s")):
        axis.plot(range(len(tau[name])), tau[name], marker=marker, label=labels[name])
    axis.axvspan(EARLY[0] * STEPS, EARLY[1] * STEPS, color="0.92", zorder=0)
    axis.set_xlabel(f"step index (of {STEPS}); shaded: 20 to 40 % of the schedule")
    axis.set_ylabel("Kendall's tau within a prompt")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(FOLDER / "ttsnap-ranking.png", dpi=130)


def plot_online(rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean reward of the winner against equal budgets."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    styles = ("-o", "--v", "-s", "--^", ":^", "-D", "-P", "-X", "-*", "-h")
    names = list(dict.fromkeys(row["name"] for row in rows))
    for axis, key, label in (
        (axes[0], "reward", "mean reward of the winner (shapes-clip)"),
        (axes[1], "geneval_mini", "GenEval-mini, share right"),
    ):
        for name, style in zip(names, styles, strict=False):
            own = [row for row in rows if row["name"] == name]
            axis.plot([r["budget"] for r in own], [r[key] for r in own], style, label=name, ms=5)
        axis.set_xlabel("budget: the cost of best-of-N, in FLOPs")
        axis.set_ylabel(label)
        axis.set_xticks(BUDGETS, [f"N = {budget}" for budget in BUDGETS])
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(FOLDER / "ttsnap.png", dpi=130)


def main() -> None:
    """Run all parts and publish them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recording", type=Path, default=Path("training/noise-aware/held-out"))
    parser.add_argument("--prompts-per-category", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of the contenders to run online")
    arguments = parser.parse_args()
    recording = record_held_out_prompts(arguments.recording)
    pipe: Any = gensift.load_pipeline("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    rewards = {
        "noise-aware": gensift.load_reward("shapes-clip"),
        "plain": gensift.load_reward("shapes-clip", noise_aware=False),
    }
    scores = load_scores(arguments.recording, rewards)
    tau = {name: tau_per_step(tensors) for name, tensors in scores.items()}
    plot_ranking(tau, recording.sigmas)
    tiny = gensift.TTSnap(rewards["plain"]).preview_decoder(pipe)
    price = {unit: prices(pipe, rewards["plain"], unit, tiny, repeats=3) for unit in UNITS}
    schedules = {"plain": CLEAN_SCHEDULE, "noise-aware": NOISE_AWARE_SCHEDULE}
    played = {
        unit: {
            name: offline(scores[name], schedule.resolve(STEPS), price[unit])
            for name, schedule in schedules.items()
        }
        for unit in UNITS
    }
    curve = best_of_n_curve(scores["plain"].values()).mean(0)
    rows = online(pipe, rewards, price["flops"], curve, arguments)
    plot_online(rows)
    publish(
        "ttsnap",
        {
            "prompts": len(recording.prompts),
            "images_per_prompt": recording.num_images,
            "kendall_tau_early": {key: early_mean(tau[name]) for key, name in _KEYS.items()},
            "kendall_tau": {key: tau[name] for key, name in _KEYS.items()},
            "best_of_n_equivalent": {
                key: {
                    f"best-of-{row['budget']}": row["equivalent"] for row in played["flops"][name]
                }
                for key, name in _KEYS.items()
            },
            "offline": played,
            "tuner": {
                key: tuned_splits(scores[name], price["flops"]) for key, name in _KEYS.items()
            },
            "prices": {unit: vars(found) for unit, found in price.items()},
            "best_of_n_reward": curve.tolist(),
            "online_prompts": len(benchmark(arguments.prompts_per_category)),
            "online_seeds": arguments.seeds,
            "online": rows,
        },
    )


UNITS = ("flops", "seconds")
_KEYS = {"plain": "plain", "noise_aware": "noise-aware"}


if __name__ == "__main__":
    main()
