"""What `gensift tune` promises: on prompts it has not seen, and in searches that really run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.results import interval
from benchmarks.ttsnap_offline import BUDGETS, allowed
from gensift.randomness import candidate_seeds
from rewards.noise_aware.recording import Recording
from samplers.diffusion.schedule import UnitCosts
from samplers.diffusion.ttsnap import TTSnap
from samplers.tuning.pool import best_of_n_curve, equivalent_count
from samplers.tuning.recordings import Floats, ScoreTensors
from samplers.tuning.schedule_file import generate_config
from samplers.tuning.search import Recommendation, TuneConfig, tune
from samplers.tuning.simulation import Draws

SPLITS = 5
DRAWS = 200


@cache
def advice(scores: ScoreTensors, costs: UnitCosts) -> tuple[Recommendation, ...]:
    """What is recommended at each budget; several parts of the benchmark ask."""
    configs = [TuneConfig(budget=allowed(budget, costs)) for budget in BUDGETS]
    return tuple(tune(scores, costs, config) for config in configs)


def advised(scores: ScoreTensors, costs: UnitCosts, curve: Floats) -> list[dict[str, Any]]:
    """What is recommended at each budget, and its worth on prompts kept out of the choice.

    Args:
        scores: of the pool, drawn with any number of steps.
        costs: of the searches.
        curve: mean best-of-n with all steps, `(n,)`.
    """
    rows = []
    for budget, found in zip(BUDGETS, advice(scores, costs), strict=True):
        reward = found.best_of_n_reward
        row: dict[str, Any] = {"budget": budget, "best_of_n": found.best_of_n}
        if found.prunes and found.gain is not None:
            reward += found.gain.mean
            row |= recommended(found) | {"gain_interval_95": (found.gain.low, found.gain.high)}
        count = equivalent_count(curve, reward).count
        rows.append(row | {"reward": reward, "equivalent": count, "ratio": count / budget})
    return rows


def tuned_splits(scores: ScoreTensors, costs: UnitCosts) -> list[dict[str, Any]]:
    """Tune on random halves of the prompts and measure the recommendation on the other halves."""
    rows = []
    for split in range(SPLITS):
        order = np.random.default_rng(split).permutation(scores.num_prompts)
        half = scores.num_prompts // 2
        ours, others = (of_prompts(scores, part) for part in (order[:half], order[half:]))
        for budget in BUDGETS:
            found = tune(ours, costs, TuneConfig(budget=allowed(budget, costs), seed=split))
            row = {"split": split, "best_of_n": found.best_of_n, "prunes": found.prunes}
            if found.prunes:
                row |= recommended(found) | {"held_out_gain": simulated_gain(others, found)}
            rows.append(row)
    return rows


def promised_and_kept(splits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per budget the mean gain that was predicted, and that on prompts the tuner had not seen."""
    rows = []
    for count in dict.fromkeys(row["best_of_n"] for row in splits):
        own = [row for row in splits if row["best_of_n"] == count and row["prunes"]]
        row = {"best_of_n": count, "recommendations": len(own)}
        if own:
            row["predicted_gain"] = float(np.mean([r["predicted_gain"] for r in own]))
            row["held_out_gain"] = float(np.mean([r["held_out_gain"] for r in own]))
        rows.append(row)
    return rows


def replayed(
    pipe: Any, reward: Any, recording: Recording, scores: ScoreTensors, found: Recommendation
) -> dict[str, Any]:
    """The recommended search, really run once per prompt on candidates that were recorded.

    The simulation knows who would win among these very candidates, so what differs is what the
    simulation leaves out: a recording's pictures have 8 bits, and were drawn in other batches.
    """
    count = found.num_candidates
    draws = Draws(scores, 1, seed=2, most=count)
    expected = draws.winners(found.checkpoints, count)[:, 0]
    options = generate_config(found.checkpoints, scores.num_steps)["options"]
    search = TTSnap(reward, num_candidates=count, **options)
    final = scores.values()
    is_same, difference = [], []
    for index, prompt in enumerate(tqdm(recording.prompts, desc="replayed", unit="prompt")):
        pool = candidate_seeds(recording.config["seed"], index, recording.num_images)
        drawn = [pool[place] for place in draws.candidates[index, 0]]
        output = search(pipe, prompt, seeds=[drawn])
        is_same.append(output.seeds[0] == pool[expected[index]])
        difference.append(output.rewards[0] - final[index, expected[index]])
    return recommended(found) | {
        "best_of_n": found.best_of_n,
        "searches": len(is_same),
        "same_winner": float(np.mean(is_same)),
        "online_minus_simulated": float(np.mean(difference)),
        "online_minus_simulated_interval_95": interval(np.array(difference)),
    }


def recommended(found: Recommendation) -> dict[str, Any]:
    """A recommendation that prunes, for JSON."""
    return {
        "checkpoints": [(point.step_index, point.keep) for point in found.checkpoints],
        "num_candidates": found.num_candidates,
        "predicted_gain": None if found.gain is None else found.gain.mean,
    }


def simulated_gain(scores: ScoreTensors, found: Recommendation) -> float:
    """Mean reward over best-of-N of the recommended search, on other prompts."""
    count = found.num_candidates
    won = Draws(scores, DRAWS, seed=1, most=count).rewards(found.checkpoints, count)
    plain = best_of_n_curve(scores.values(), found.best_of_n)[:, -1]
    return float((won - plain).mean())


def of_prompts(scores: ScoreTensors, prompts: NDArray[np.int64]) -> ScoreTensors:
    """The scores of some prompts, for a single reward."""
    (parts,) = scores.rewards.values()
    return ScoreTensors.single(parts.early[prompts], parts.final[prompts])
