"""What BAC is worth to a Diffusion Policy: success, time and action error at 100 DDPM steps.

    python -m benchmarks.policy [--episodes 50] [--rounds 100] [--work DIR]

`metaworld-policy`, six tasks, one process. Caches are calibrated on plans along uncached episodes
of validation goals; success is that of the 50 held-out goals of each task, with the same seeds for
all contenders; times are medians of chunks planned by turns. What is measured is kept in the work
folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gensift
from benchmarks.policy_contenders import (
    FULL,
    MAIN,
    STEPS,
    Contender,
    contenders,
    denoising_of,
)
from benchmarks.policy_plot import draw
from benchmarks.results import publish
from benchmarks.timing import interleaved
from caches.bac import calibration as bac
from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.files import write_atomically
from gensift.pipelines.policy.control import RecedingHorizon
from gensift.randomness import candidate_seeds, make_generators
from gensift.zoo.metaworld.rollouts import Arena
from gensift.zoo.metaworld.tasks import TASKS, TEST_SEED
from gensift.zoo.metaworld.visited import visited

CALIBRATION_EPISODES = 2  # of each task
HELD_OUT_GOALS = (40, 41)  # of the validation goals, for errors
CALIBRATION_PLANS = 48
FULL_CALL = {"num_inference_steps": STEPS}
CALIBRATION_SEEDS = (0, 1, 2, 3)


class Work:
    """Figures kept in files, each computed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` returned, now or in an earlier run."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            write_atomically(file, json.dumps(compute()).encode())
            print(name, flush=True)
        return json.loads(file.read_text())


def rollouts(pipe: Any, contender: Contender, arena: Arena, episodes: int) -> dict[str, Any]:
    """Success, steps and planning time of a contender on the held-out goals of a task."""
    with contender.on(pipe) as arguments:
        found = arena.run(RecedingHorizon(pipe, **arguments), range(episodes))
    return {
        "success": [episode.is_success for episode in found.episodes],
        "steps": [episode.steps for episode in found.episodes],
        "plan_seconds": found.plan_seconds,
    }


def planned(pipe: Any, contender: Contender, seen: Tensor, seed: int = 0) -> Tensor:
    """The plans of a contender `(batch, horizon, action_dim)`, not scaled back."""
    generators = make_generators(candidate_seeds(seed, 0, len(seen)))
    with contender.on(pipe) as arguments:
        output = pipe(seen, generator=generators, output_type="latent", **arguments)
    found: Tensor = output.actions
    return found


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Mean over rows of the L2 distance, relative to the reference's size."""
    distance = (found - reference).flatten(1).norm(dim=1)
    return float((distance / reference.flatten(1).norm(dim=1)).mean())


def trace(pipe: Any, contender: Contender, seen: Tensor) -> list[Tensor]:
    """Noisy actions after each step, `(batch, horizon, action_dim)`."""
    states: list[Tensor] = []

    def keep(event: StepEvent) -> None:
        states.append(event.latents.clone())

    generators = make_generators(candidate_seeds(0, 0, len(seen)))
    with contender.on(pipe) as arguments, observe_scheduler(pipe.scheduler, keep):
        pipe(seen, generator=generators, **arguments)
    return states


def errors(pipe: Any, found: Sequence[Contender], seen: Tensor) -> dict[str, Any]:
    """Action errors of all, and the error after each step of those with a hundred steps."""
    full = found[0]
    reference, states = planned(pipe, full, seen), trace(pipe, full, seen)
    actions = {c.name: relative_error(planned(pipe, c, seen), reference) for c in found}
    actions["uncached, other noise"] = relative_error(planned(pipe, full, seen, 1), reference)
    traces = {
        c.name: [
            relative_error(state, before)
            for state, before in zip(trace(pipe, c, seen), states, strict=True)
        ]
        for c in found
        if c.config is not None
    }
    return {"plans": len(seen), "actions": actions, "traces": traces}


def speed(
    pipe: Any, found: Sequence[Contender], seen: Tensor, batch: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of planning one batch, by turns."""
    rows = seen[torch.arange(batch) % len(seen)]
    runs = {c.name: (lambda c=c: planned(pipe, c, rows)) for c in found}  # type: ignore[misc]
    timed = interleaved(runs, rounds, "cpu", warm_ups=1)
    return {name: [one.seconds for one in times] for name, times in timed.items()}


def stability(pipe: Any, plans: Sequence[Tensor]) -> dict[str, Any]:
    """How much schedules of ten updates depend on which plans, and what noise, they are made of."""
    part = len(plans) // len(CALIBRATION_SEEDS)
    recorded = [
        bac.record_similarity(denoising_of(pipe, seed), plans[i * part : (i + 1) * part])
        for i, seed in enumerate(CALIBRATION_SEEDS)
    ]
    made = [bac.block_schedules(one, 10, num_bubbling=0) for one in recorded]
    shifts, losses = [], []
    for first, own in enumerate(made):
        for second, other in enumerate(made):
            if first == second:
                continue
            for unit in own:
                shifts += [abs(a - b) for a, b in zip(own[unit], other[unit], strict=True)]
                best = _kept(recorded[first].similarity(unit), own[unit])
                losses.append(best - _kept(recorded[first].similarity(unit), other[unit]))
    return {
        "calibrations": len(made),
        "plans_each": part,
        "mean_shift_steps": float(np.mean(shifts)),
        "mean_loss_of_similarity": float(np.mean(losses)),
    }


def _kept(similarity: Any, updates: Sequence[int]) -> float:
    """Mean similarity of each step to the latest update."""
    latest = [max(u for u in updates if u <= step) for step in range(len(similarity))]
    return float(np.mean([similarity[a, step] for step, a in enumerate(latest)]))


def rows_of(
    found: Sequence[Contender],
    success: dict[str, dict[str, Any]],
    actions: dict[str, float],
    times: dict[str, dict[str, list[float]]],
) -> list[dict[str, Any]]:
    """The table."""
    rows = []
    for contender in found:
        own = {task: success[f"{contender.name}/{task}"] for task in TASKS}
        per_task = {task: 100 * float(np.mean(one["success"])) for task, one in own.items()}
        row: dict[str, Any] = {
            "method": contender.name,
            "success": float(np.mean(list(per_task.values()))),
            "success_by_task": per_task,
            "action_error": actions[contender.name],
            "mean_updates": contender.mean_updates,
        }
        for batch, seconds in times.items():
            median = float(np.median(seconds[contender.name]))
            row[f"seconds_batch_{batch}"] = median
            row[f"speedup_batch_{batch}"] = float(np.median(seconds[FULL])) / median
        rows.append(row)
    return rows


def latency(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Milliseconds per chunk at batch 1."""
    return {
        name: {f"p{q}": 1000 * float(np.percentile(times, q)) for q in (50, 99)}
        for name, times in seconds.items()
    }


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--work", type=Path, default=Path("training/bac-policy"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    work = Work(arguments.work)
    pipe: Any = gensift.load_pipeline("metaworld-policy", dtype="float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    goals = range(CALIBRATION_EPISODES)
    plans = work.once("plans", lambda: [p.tolist() for p in visited(pipe, goals, **FULL_CALL)])
    plans = [torch.tensor(plan) for plan in plans[:CALIBRATION_PLANS]]
    held = work.once(
        "held_out", lambda: [p.tolist() for p in visited(pipe, HELD_OUT_GOALS, **FULL_CALL)]
    )
    seen = torch.tensor(held)[:48]
    statistics = bac.record_similarity(denoising_of(pipe), plans)
    found = contenders(pipe, statistics)
    off = work.once("errors", lambda: errors(pipe, found, seen))
    spread = work.once("stability", lambda: stability(pipe, plans))
    times = {
        "1": work.once("speed-1", lambda: speed(pipe, found, seen, 1, arguments.rounds)),
        "16": work.once("speed-16", lambda: speed(pipe, found, seen, 16, arguments.rounds // 10)),
    }
    success = {}
    for task in TASKS:
        arena = Arena(task, TEST_SEED)
        for contender in found:
            name = f"{contender.name}-{task}".replace(" ", "-").replace(",", "")
            success[f"{contender.name}/{task}"] = work.once(
                name, lambda c=contender, a=arena: rollouts(pipe, c, a, arguments.episodes)
            )
        arena.close()
    rows = rows_of(found, success, off["actions"], times)
    by_name = {row["method"]: row for row in rows}
    figures = {
        "steps": STEPS,
        "episodes_per_task": arguments.episodes,
        "speedup": by_name[MAIN]["speedup_batch_1"],
        "success_full": by_name[FULL]["success"],
        "success_bac": by_name[MAIN]["success"],
        "rows": rows,
        "action_error_of_other_noise": off["actions"]["uncached, other noise"],
        "latency_ms": latency({n: t for n, t in times["1"].items()}),
        "rounds": {batch: len(seconds[FULL]) for batch, seconds in times.items()},
        "stability": spread,
        "error_plans": off["plans"],
        "calibration_plans": len(plans),
        "bac_schedule": [asdict(item) for item in _config(found, MAIN).schedules],
    }
    publish("bac_policy", figures)
    draw(figures, off["traces"])


def _config(found: Sequence[Contender], name: str) -> Any:
    return next(contender.config for contender in found if contender.name == name)


if __name__ == "__main__":
    main()
