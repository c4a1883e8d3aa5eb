"""Figures of `metaworld-policy`: how often it reaches goals that no demonstration had."""

from __future__ import annotations

from typing import Any

from scipy.stats import binomtest

from gensift.pipelines.loading import call_defaults, load_pipeline
from gensift.pipelines.policy.control import RecedingHorizon
from gensift.zoo.metaworld.rollouts import Arena, Rollouts
from gensift.zoo.metaworld.tasks import TASKS, TEST_SEED

EPISODES = 50


def evaluate() -> dict[str, Any]:
    """Success of the embedded `metaworld-policy` on the 50 held-out goals of each task."""
    pipe: Any = load_pipeline("metaworld-policy", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    found = {task: rollouts(pipe, task) for task in TASKS}
    return {"episodes_per_task": EPISODES, **{task: figures(runs) for task, runs in found.items()}}


def rollouts(pipe: Any, task: str) -> Rollouts:
    """One episode for each held-out goal of a task, at the pipeline's default settings."""
    arena = Arena(task, TEST_SEED)
    try:
        return arena.run(RecedingHorizon(pipe, **call_defaults(pipe)), range(EPISODES))
    finally:
        arena.close()


def figures(runs: Rollouts) -> dict[str, Any]:
    """Success in percent with its exact 95 % interval, and the length of successes."""
    steps = [episode.steps for episode in runs.episodes if episode.is_success]
    interval = binomtest(len(steps), len(runs.episodes)).proportion_ci(0.95, method="exact")
    return {
        "success": 100 * runs.success,
        "interval_95": [100 * float(interval.low), 100 * float(interval.high)],
        "mean_steps_of_successes": sum(steps) / len(steps) if steps else None,
    }
