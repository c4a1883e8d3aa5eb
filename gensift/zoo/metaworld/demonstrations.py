"""Demonstrations of Meta-World's scripted experts, recorded once into files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gensift.errors import ConfigError
from gensift.zoo.metaworld.tasks import (
    TASKS,
    TRAIN_SEEDS,
    Floats,
    expert_warnings_off,
    features,
    goals_of,
    metaworld,
)

MAX_STEPS = 250
NOISE = 0.3
"""Standard deviation of what is added to the executed actions of every other episode."""


@dataclass(frozen=True)
class Demonstration:
    """One successful episode.

    Attributes:
        observations: float32 `(steps, 45)`, before each action.
        actions: float32 `(steps, 4)` in [-1, 1], what the expert wanted.
    """

    observations: Floats
    actions: Floats


def record(folder: Path, seeds: Sequence[int] = TRAIN_SEEDS) -> list[Demonstration]:
    """Demonstrations of all tasks, one per goal; read from `folder` where they lie there already.

    Every other episode is disturbed: noise is added to what is executed, and the expert's own
    action is what is kept. So there is something to learn about the way back, too.

    Source: DART (Laskey et al., arXiv 1703.09327), with a fixed noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Demonstration] = []
    for task in TASKS:
        file = folder / f"{task}.npz"
        if not file.exists():
            _write(file, list(_record_task(task, seeds)))
        found += _read(file)
    return found


def _record_task(task: str, seeds: Sequence[int]) -> Iterator[Demonstration]:
    expert = _expert(task)
    for seed in tqdm(seeds, desc=f"record {task}", unit="set"):
        goals = goals_of(task, seed)
        environment = goals.environment_class()
        for number, goal in enumerate(goals.goals):
            rng = np.random.default_rng((seed, number))
            noise = NOISE if number % 2 else 0.0
            environment.set_task(goal)
            episode = _episode(task, environment, expert, noise, rng)
            if episode is not None:
                yield episode
        environment.close()


def _episode(
    task: str, environment: Any, expert: Any, noise: float, rng: np.random.Generator
) -> Demonstration | None:
    """An episode up to its first success; None where there is none."""
    observation, _ = environment.reset()
    observations, actions = [], []
    for _ in range(MAX_STEPS):
        with expert_warnings_off():
            action = np.clip(expert.get_action(observation), -1, 1)
        observations.append(features(task, observation))
        actions.append(action.astype(np.float32))
        executed = np.clip(action + noise * rng.standard_normal(len(action)), -1, 1)
        observation, _, _, _, info = environment.step(executed.astype(np.float32))
        if info["success"]:
            return Demonstration(np.stack(observations), np.stack(actions))
    return None


def _expert(task: str) -> Any:
    metaworld()
    from metaworld.policies import ENV_POLICY_MAP

    return ENV_POLICY_MAP[f"{task}-v3"]()


def _write(file: Path, episodes: Sequence[Demonstration]) -> None:
    aside = file.with_suffix(".tmp.npz")
    np.savez_compressed(
        aside,
        observations=np.concatenate([episode.observations for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        lengths=np.array([len(episode.actions) for episode in episodes]),
    )
    aside.replace(file)


def _read(file: Path) -> list[Demonstration]:
    try:
        with np.load(file) as stored:
            ends = np.cumsum(stored["lengths"])[:-1]
            observations = np.split(stored["observations"], ends)
            actions = np.split(stored["actions"], ends)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{file} is damaged ({error}); remove it, to record it again.") from error
    return [Demonstration(o, a) for o, a in zip(observations, actions, strict=True)]
