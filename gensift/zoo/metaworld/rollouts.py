"""Many robots at once under one policy, each with its own goal and its own noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensift.pipelines.policy.control import RecedingHorizon
from gensift.randomness import candidate_seed, make_generators
from gensift.zoo.metaworld.tasks import TASKS, Floats, check_task, features, goals_of

MAX_STEPS = 200
"""Actions after which an episode has failed; experts need 32 to 92."""

OnFrame = Callable[[int, Any, Floats], None]
"""Told the number of an episode, its environment and what it shows, before its first action and
after each."""


@dataclass(frozen=True)
class Episode:
    """What came of one episode.

    Attributes:
        goal: its number among those of the task.
        seed: of the noise that its actions were made of.
        is_success: whether Meta-World's success flag went up.
        steps: actions executed, up to that.
    """

    goal: int
    seed: int
    is_success: bool
    steps: int


@dataclass(frozen=True)
class Rollouts:
    """Episodes of one task.

    Attributes:
        task: its name.
        episodes: in the order of their goals.
        plan_seconds: wall time of each call of the policy.
        plan_rows: robots in each of these calls.
    """

    task: str
    episodes: tuple[Episode, ...]
    plan_seconds: tuple[float, ...]
    plan_rows: tuple[int, ...]

    @property
    def success(self) -> float:
        """Share of successful episodes."""
        return sum(episode.is_success for episode in self.episodes) / len(self.episodes)


@dataclass
class _Robot:
    """One environment, and how far its episode is."""

    number: int
    environment: Any
    observation: Floats
    generator: torch.Generator
    steps: int = 0
    is_success: bool = False
    is_over: bool = field(default=False)


class Arena:
    """Environments of one task, made once and used for any number of rollouts."""

    def __init__(self, task: str, seed: int, *, render_mode: str | None = None) -> None:
        """Environments for the goals that `seed` stands for.

        Raises:
            UnknownNameError: there is no such task.
            MissingExtraError: Meta-World is not installed.
        """
        self.task, self._set = check_task(task), goals_of(task, seed)
        self._options: dict[str, Any] = (
            {} if render_mode is None else {"render_mode": render_mode, "camera_name": "corner2"}
        )
        self._environments: list[Any] = []

    @property
    def num_goals(self) -> int:
        """Goals in the set."""
        return len(self._set.goals)

    def run(
        self,
        plan: RecedingHorizon,
        goals: Sequence[int],
        *,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        max_steps: int = MAX_STEPS,
        on_frame: OnFrame = lambda number, environment, observation: None,
    ) -> Rollouts:
        """One episode for each of `goals`, all at once; those that are over leave the batch.

        Args:
            plan: the policy.
            goals: numbers of goals, 0 to `num_goals` - 1; one may come several times.
            seed: base of the seeds of the episodes.
            seeds: one for each episode, instead of `seed`.
            max_steps: actions after which an episode has failed.
            on_frame: for pictures, and for whoever watches.
        """
        if seeds is None:
            seeds = [candidate_seed(seed, TASKS.index(self.task), goal) for goal in goals]
        robots = self._start(goals, seeds)
        histories = plan.histories(len(robots))
        for robot in robots:
            on_frame(robot.number, robot.environment, robot.observation)
            histories[robot.number].see(robot.observation)
        seconds, rows = [], []
        while acting := [robot for robot in robots if not robot.is_over]:
            start = time.perf_counter()
            chunks = plan.actions(
                [histories[robot.number] for robot in acting],
                [robot.generator for robot in acting],
            )
            seconds.append(time.perf_counter() - start)
            rows.append(len(acting))
            for robot, chunk in zip(acting, chunks, strict=True):
                for action in chunk:
                    self._step(robot, action, max_steps)
                    histories[robot.number].see(robot.observation)
                    on_frame(robot.number, robot.environment, robot.observation)
                    if robot.is_over:
                        break
        episodes = tuple(
            Episode(goal, seeds[robot.number], robot.is_success, robot.steps)
            for robot, goal in zip(robots, goals, strict=True)
        )
        return Rollouts(self.task, episodes, tuple(seconds), tuple(rows))

    def begin(self, goal: int, place: int = 0) -> tuple[Any, Floats]:
        """Environment number `place` at the beginning of an episode, and what it shows."""
        while len(self._environments) <= place:
            self._environments.append(self._set.environment_class(**self._options))
        environment = self._environments[place]
        environment.set_task(self._set.goals[goal])
        observation, _ = environment.reset()
        return environment, features(self.task, observation)

    def close(self) -> None:
        """Give the environments' memory back."""
        for environment in self._environments:
            environment.close()
        self._environments = []

    def _start(self, goals: Sequence[int], seeds: Sequence[int]) -> list[_Robot]:
        robots = []
        for number, (goal, generator) in enumerate(zip(goals, make_generators(seeds), strict=True)):
            environment, seen = self.begin(goal, number)
            robots.append(_Robot(number, environment, seen, generator))
        return robots

    def _step(self, robot: _Robot, action: Tensor, max_steps: int) -> None:
        given = np.clip(action.numpy(), -1, 1)
        observation, _, _, _, info = robot.environment.step(given)
        robot.observation = features(self.task, observation)
        robot.steps += 1
        robot.is_success = bool(info["success"])
        robot.is_over = robot.is_success or robot.steps >= max_steps
