"""What noise-aware pruning is worth: ranking, equivalent candidates, and peers at equal cost.

    python -m benchmarks.ttsnap --recording training/noise-aware/held-out [--seeds 1]

Four parts, all on held-out prompts with `shapes-flux` and `shapes-clip`:

* ranking: Kendall's tau within a prompt between the score of the estimate after each step and the
  final score, for the reward as it is and for its noise-aware version;
* offline: TTSnap played through on the recorded pool, many draws per prompt, at the cost of
  best-of-4, 10 and 20 (denoiser, decodes and rewards, in FLOPs and in seconds); the figure is the
  number of candidates with which best-of-N would do as well, by the exact formula for the pool.
  For the default schedules and for tuned ones, on prompts that they were not chosen on; and
  again with half of the steps, where best-of-N is the strongest simple baseline;
* tuner: what it recommends on half of the prompts, measured on the other half, and replayed in real
  searches on recorded candidates;
* online: the searches themselves, one prompt per call, checked by the analytic verifier too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import gensift
from apps.training.zoo.noise_aware_evaluation import (
    EARLY,
    RECORDING,
    early_mean,
    record_held_out_prompts,
    tau_per_step,
)
from benchmarks.contenders import (
    Contender,
    Record,
    figures,
    gain,
    largest_count,
    run_once,
    unit_costs,
)
from benchmarks.results import FOLDER, publish
from benchmarks.ttsnap_offline import BUDGETS, STEPS, allowed, offline
from benchmarks.ttsnap_tuner import advice, advised, promised_and_kept, replayed, tuned_splits
from gensift.zoo.shapes.geneval import benchmark
from rewards.noise_aware.recording import Recording
from samplers.diffusion.schedule import PruningSchedule, UnitCosts
from samplers.diffusion.ttsnap import CLEAN_SCHEDULE, NOISE_AWARE_SCHEDULE
from samplers.tuning.pool import best_of_n_curve, equivalent_count
from samplers.tuning.recordings import Floats, ScoreTensors
from samplers.tuning.scored_recording import scored

FEWER_STEPS = 10
MORE_IMAGES = 80
"""With fewer steps a budget pays for more candidates than the other pool holds."""
HALF_AT_HALF = PruningSchedule((0.5,), (0.5,))
"""Half of the candidates are kept at half of the loop."""

CONTENDERS = (
    Contender("best-of-n", "best-of-n", "plain"),
    Contender("best-of-n, 10 steps", "best-of-n", "plain", steps=10),
    Contender("ttsnap", "ttsnap"),
    Contender("ttsnap, 10 steps", "ttsnap", steps=10),
    Contender(
        "ttsnap, half at half of 10 steps",
        "ttsnap",
        options={"checkpoints": HALF_AT_HALF.fractions, "keep": HALF_AT_HALF.keep},
        steps=10,
    ),
    Contender("ttsnap, plain reward", "ttsnap", "plain"),
    Contender("ttsnap, plain reward, full VAE", "ttsnap", "plain", {"preview_decoder": "vae"}),
    Contender("fk-steering", "fk-steering"),
    Contender("svdd", "svdd"),
    Contender("zero-order", "zero-order", "plain"),
    Contender("search-over-paths", "search-over-paths"),
    Contender("local-refine", "local-refine"),
)

BASELINES = {
    "gain_over_best_of_n": "best-of-n",
    f"gain_over_best_of_n_{FEWER_STEPS}_steps": f"best-of-n, {FEWER_STEPS} steps",
}


def tuner(
    pipe: Any,
    rewards: Mapping[str, Any],
    recording: Recording,
    scores: Mapping[str, ScoreTensors],
    costs: UnitCosts,
) -> dict[str, Any]:
    """What the tuner promises, with and without noise-awareness, and what comes of it."""
    found: dict[str, Any] = {}
    for key, name in _KEYS.items():
        splits = tuned_splits(scores[name], costs)
        found[key] = {
            "splits": splits,
            "promised_and_kept": promised_and_kept(splits),
            "replayed": [
                replayed(pipe, rewards[name], recording, scores[name], recommendation)
                for recommendation in advice(scores[name], costs)
                if recommendation.prunes
            ],
        }
    return found


def with_steps(
    scores: Mapping[str, ScoreTensors],
    schedules: Mapping[str, PruningSchedule],
    costs: Mapping[str, UnitCosts],
    pool: Floats,
) -> dict[str, Any]:
    """Fixed schedules and tuned ones on a pool drawn with some number of steps.

    Args:
        scores: of the pool, by scorer.
        schedules: the fixed schedule of each scorer.
        costs: by unit.
        pool: best-of-n with all steps, `(prompts, n)`; what all is compared with.
    """
    steps = scores["plain"].num_steps
    return {
        unit: {"best-of-n": offline(scores["plain"], (), own, pool)}
        | {n: offline(scores[n], s.resolve(steps), own, pool) for n, s in schedules.items()}
        | {f"{n}, tuned": advised(scores[n], own, pool.mean(0)) for n in schedules}
        for unit, own in costs.items()
    }


def equivalents(played: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Of fixed schedules, at equal FLOPs."""
    return {
        key: {f"best-of-{row['budget']}": row["equivalent"] for row in played["flops"][name]}
        for key, name in {"best_of_n": "best-of-n", **_KEYS}.items()
    }


def online(
    pipe: Any, rewards: Mapping[str, Any], costs: UnitCosts, curve: Floats, arguments: Any
) -> list[dict[str, Any]]:
    """Every contender at every budget, with the same prompts."""
    meanings = benchmark(arguments.prompts_per_category)
    rows: list[dict[str, Any]] = []
    chosen = [c for c in CONTENDERS if not arguments.only or c.name in arguments.only]
    for budget in BUDGETS:
        records: dict[str, Record] = {}
        most = allowed(budget, costs)
        counts = {c.name: largest_count(c, pipe, rewards, costs, most) for c in chosen}
        fitting = [contender for contender in chosen if counts[contender.name]]
        for contender in fitting:
            records[contender.name] = run_once(
                arguments.recording / "online",
                contender,
                counts[contender.name],
                pipe,
                rewards,
                meanings,
                range(arguments.seeds),
            )
        for contender in fitting:
            name, record = contender.name, records[contender.name]
            row = {"name": name, "budget": budget, "num_candidates": counts[name]}
            row |= {"num_inference_steps": contender.steps} | figures(record)
            found = equivalent_count(curve, row["reward"])
            row |= {"equivalent": found.count, "equivalent_relation": found.relation}
            for key, baseline in BASELINES.items():
                if baseline in records:
                    row[key] = gain(record, records[baseline])
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
    styles = ("-o", "--v", "-s", "--s", "-.s", "--^", ":^", "-D", "-P", "-X", "-*", "-h")
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
    few = record_held_out_prompts(
        arguments.recording / f"{FEWER_STEPS}-steps",
        config=replace(RECORDING, num_images=MORE_IMAGES),
        num_inference_steps=FEWER_STEPS,
    )
    pipe: Any = gensift.load_pipeline("shapes-flux")
    pipe.set_progress_bar_config(disable=True)
    rewards = {
        "noise-aware": gensift.load_reward("shapes-clip"),
        "plain": gensift.load_reward("shapes-clip", noise_aware=False),
    }
    scores, few_scores = (
        {name: scored(drawn, reward) for name, reward in rewards.items()}
        for drawn in (recording, few)
    )
    tau = {name: tau_per_step(tensors) for name, tensors in scores.items()}
    plot_ranking(tau, recording.sigmas)
    tiny = gensift.TTSnap(rewards["plain"]).preview_decoder(pipe)
    costs = {unit: unit_costs(pipe, rewards["plain"], unit, tiny, repeats=3) for unit in UNITS}
    schedules = {"plain": CLEAN_SCHEDULE, "noise-aware": NOISE_AWARE_SCHEDULE}
    pool = best_of_n_curve(scores["plain"].values())
    played = with_steps(scores, schedules, costs, pool)
    played_with_fewer = with_steps(few_scores, dict.fromkeys(schedules, HALF_AT_HALF), costs, pool)
    curve = pool.mean(0)
    rows = online(pipe, rewards, costs["flops"], curve, arguments)
    plot_online(rows)
    publish(
        "ttsnap",
        {
            "prompts": len(recording.prompts),
            "images_per_prompt": recording.num_images,
            "kendall_tau_early": {key: early_mean(tau[name]) for key, name in _KEYS.items()},
            "kendall_tau": {key: tau[name] for key, name in _KEYS.items()},
            "best_of_n_equivalent": equivalents(played),
            f"best_of_n_equivalent_{FEWER_STEPS}_steps": equivalents(played_with_fewer),
            "offline": played,
            f"offline_{FEWER_STEPS}_steps": played_with_fewer,
            "tuner": tuner(pipe, rewards, recording, scores, costs["flops"]),
            "prices": {unit: vars(found) for unit, found in costs.items()},
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
