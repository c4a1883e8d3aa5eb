"""TTSnap played through on recorded candidates, at the cost of best-of-N."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from samplers.diffusion.schedule import Checkpoint, UnitCosts, largest_search
from samplers.tuning.pool import equivalent_count
from samplers.tuning.recordings import Floats, ScoreTensors
from samplers.tuning.simulation import Draws

BUDGETS = (4, 10, 20)
STEPS = 20


def allowed(budget: int, costs: UnitCosts) -> float:
    """What best-of-`budget` costs with all of its steps; a little more, against rounding."""
    return budget * (STEPS * costs.step + costs.scoring) * (1 + 1e-9)


def offline(
    scores: ScoreTensors,
    checkpoints: Sequence[Checkpoint],
    costs: UnitCosts,
    curve: Floats,
    draws: int = 200,
) -> list[dict[str, Any]]:
    """One schedule at each budget: candidates, reward, and what best-of-N would need.

    Args:
        scores: of the pool, drawn with any number of steps.
        checkpoints: where to prune; best-of-N without any.
        costs: of the search.
        curve: best-of-n of the same prompts with all steps, `(prompts, n)`.
        draws: searches per prompt.
    """
    rows = []
    for budget in BUDGETS:
        count = largest_search(checkpoints, scores.num_steps, 1, costs, allowed(budget, costs))
        row: dict[str, Any] = {"budget": budget, "num_candidates": count}
        if count > scores.num_images:
            rows.append(row | {"equivalent": None, "why": "more candidates than the pool holds"})
            continue
        rewards = Draws(scores, draws, seed=0, most=count).rewards(checkpoints, count)
        row["reward"] = float(rewards.mean())
        row["equivalent"] = equivalent_count(curve.mean(0), row["reward"]).count
        row["equivalent_interval_95"] = _equivalent_interval(curve, rewards)
        row["ratio"] = row["equivalent"] / budget
        rows.append(row)
    return rows


def _equivalent_interval(curve: Floats, rewards: Floats) -> tuple[float, float]:
    """Prompts resampled, for the search and for best-of-N alike."""
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(500):
        rows = rng.integers(len(rewards), size=len(rewards))
        counts.append(equivalent_count(curve[rows].mean(0), float(rewards[rows].mean())).count)
    low, high = np.quantile(counts, [0.025, 0.975])
    return float(low), float(high)
