"""A world without physics in place of Meta-World: a hand that moves as told, towards a goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensift.zoo.metaworld.tasks import Goals

STEP, REACH = 0.1, 0.05
NUM_GOALS = 6


class ToyArm:
    """Its hand moves by `STEP` times the action; success is being within `REACH` of the goal."""

    def __init__(self, render_mode: str | None = None, camera_name: str | None = None) -> None:
        self.given: list[np.ndarray[Any, Any]] = []
        self.render_mode = render_mode

    def set_task(self, goal: Any) -> None:
        self.goal = np.array(goal, dtype=float)

    def reset(self) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
        self.hand = np.zeros(3)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.given.append(np.array(action))
        self.hand = self.hand + STEP * action[:3]
        near = bool(np.abs(self.hand - self.goal).max() <= REACH)
        return self._seen(), 0.0, False, False, {"success": float(near)}

    def render(self) -> np.ndarray[Any, Any]:
        if self.render_mode is None:
            raise RuntimeError("nothing to draw with")
        return np.full((20, 20, 3), int(255 * min(1.0, self.hand[0])), dtype=np.uint8)

    def close(self) -> None:
        pass

    def _seen(self) -> np.ndarray[Any, Any]:
        seen = np.zeros(39)
        seen[:3], seen[36:39] = self.hand, self.goal
        return seen


def toy_goals(task: str, seed: int) -> Goals:
    """Goals at growing distances along the first axis."""
    goals = tuple((0.2 * (number + 1), 0.0, 0.0) for number in range(NUM_GOALS))
    return Goals(task, ToyArm, goals)
