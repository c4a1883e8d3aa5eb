"""What is seen of an episode: snapshots for listeners, and pictures where MuJoCo can draw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from gensift.zoo.metaworld.rollouts import Arena
from gensift.zoo.metaworld.tasks import Floats

BACKEND = "egl"
SIZE = 160


class Environment(Protocol):
    """What an episode happens in, as far as it is looked at."""

    def render(self) -> ArrayLike:
        """Pixels `(height, width, 3)` of the present state, 0 to 255."""
        ...


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One moment of an episode: before its first action, or after an action.

    Attributes:
        task: Meta-World's name of it.
        number: of the episode in the task.
        environment: Meta-World's own, in its present state.
        observation: what the policy sees of it, float32 `(45,)`.
    """

    task: str
    number: int
    environment: Environment
    observation: Floats


@contextmanager
def offscreen() -> Iterator[None]:
    """Let MuJoCo draw without a screen, unless the user has chosen how."""
    before = os.environ.get("MUJOCO_GL")
    if before is None:
        os.environ["MUJOCO_GL"] = BACKEND
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]


class Camera:
    """Keeps a picture of every state of one episode.

    Attributes:
        pictures: so far.
        problem: why none can be drawn; None where they can.
    """

    def __init__(self) -> None:
        self.pictures: list[Image.Image] = []
        self.problem: str | None = None

    def can_see(self, arena: Arena, goal: int) -> bool:
        """Whether there is something to draw with, tried on the beginning of an episode."""
        try:
            with offscreen():
                arena.begin(goal)[0].render()
        except _failures() as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            self.problem = f"MuJoCo has no renderer here ({reason}); set MUJOCO_GL to egl or osmesa"
            return False
        return True

    def see(self, environment: Environment) -> None:
        """Draw the present state."""
        with offscreen():
            pixels = np.asarray(environment.render())
        # Meta-World's camera stands on its head.
        picture = Image.fromarray(np.ascontiguousarray(pixels[::-1]))
        self.pictures.append(picture.resize((SIZE, SIZE)))


def _failures() -> tuple[type[Exception], ...]:
    """What MuJoCo's backends raise where a library or a device is missing."""
    common = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
    try:
        from OpenGL.error import Error
    except (ImportError, AttributeError):
        return common
    return (*common, Error)


def strip(pictures: list[Image.Image], count: int) -> Image.Image:
    """`count` of the pictures side by side, evenly spaced, the first and the last among them."""
    chosen = np.linspace(0, len(pictures) - 1, min(count, len(pictures))).round().astype(int)
    joined = Image.new("RGB", (SIZE * len(chosen), SIZE))
    for place, index in enumerate(chosen):
        joined.paste(pictures[index], (place * SIZE, 0))
    return joined
