"""Six tasks of Meta-World, their goals, and what a policy sees of them.

A goal is everything that a reset draws at random: where the object lies, and where it is to go.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gensift.errors import MissingExtraError, UnknownNameError, nearest_hint

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

TASKS = ("reach", "push", "drawer-open", "button-press-topdown", "door-open", "pick-place")
ACTION_DIM = 4
"""Three changes of position and the force that closes the gripper, each in [-1, 1]."""
OBSERVATION_DIM = 18 + 3 + 18 + len(TASKS)
"""Hand, gripper and objects now; the goal; from hand to object, from hand to goal and from object
to goal, as they are and squashed; which task it is, one-hot."""
NEAR = 0.1
"""Distance, metres, on whose scale differences are squashed."""
TRAIN_SEEDS = (0, 1, 2, 3, 4, 5)
"""Seeds of the sets of 50 goals that demonstrations are recorded for."""
VALIDATION_SEED = 100
"""Seed of the 50 goals on which settings are chosen, and caches calibrated."""
TEST_SEED = 200
"""Seed of the 50 goals on which figures are reported."""
_NOW, _GOAL = slice(0, 18), slice(36, 39)
_HAND, _OBJECT = slice(0, 3), slice(4, 7)


@dataclass(frozen=True)
class Goals:
    """A task and a set of its goals.

    Attributes:
        name: the task.
        environment_class: of the task.
        goals: what `set_task` of an environment takes.
    """

    name: str
    environment_class: Any
    goals: tuple[Any, ...]


def metaworld() -> Any:
    """The package of that name.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import metaworld as package
    except ImportError as error:
        raise MissingExtraError(
            f"Meta-World cannot be imported ({error}); install it: pip install 'gensift[policy]'."
        ) from error
    return package


def check_task(name: str) -> str:
    """`name`, if it is one of the six.

    Raises:
        UnknownNameError: it is not.
    """
    if name not in TASKS:
        raise UnknownNameError(
            f"{name!r} is not a task.{nearest_hint(name, TASKS)} Tasks: {', '.join(TASKS)}."
        )
    return name


@lru_cache(maxsize=64)
def goals_of(task: str, seed: int) -> Goals:
    """The 50 goals of a task that a seed stands for."""
    name = f"{check_task(task)}-v3"
    benchmark = metaworld().MT1(name, seed=seed)
    return Goals(task, benchmark.train_classes[name], tuple(benchmark.train_tasks))


def features(task: str, observation: Floats) -> Floats:
    """What a policy sees: float32 `(45,)` of Meta-World's own `(39,)`.

    That holds the previous state too, which is left out: experts do without, and a policy that sees
    how the hand moved learns to go on with that. Differences are added because all that is to be
    done depends on them, and squashed because a centimetre matters only when the hand is near.
    """
    hand, thing, goal = observation[_HAND], observation[_OBJECT], observation[_GOAL]
    differences = np.concatenate([thing - hand, goal - hand, goal - thing])
    one_hot = np.zeros(len(TASKS))
    one_hot[TASKS.index(task)] = 1.0
    parts = (observation[_NOW], goal, differences, np.tanh(differences / NEAR), one_hot)
    return np.concatenate(parts).astype(np.float32)


@contextlib.contextmanager
def expert_warnings_off() -> Any:
    """Experts ask for more than the robot can do, and say so at every step."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")
        yield
