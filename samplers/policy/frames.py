"""Pictures of an episode, where MuJoCo has something to draw with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from gensift.zoo.metaworld.rollouts import Arena

BACKEND = "egl"
SIZE = 160


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
        frames: so far.
        problem: why none can be drawn; None where they can.
    """

    def __init__(self) -> None:
        self.frames: list[Image.Image] = []
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

    def see(self, environment: Any) -> None:
        """Draw the present state."""
        with offscreen():
            pixels = np.asarray(environment.render())
        # Meta-World's camera stands on its head.
        picture = Image.fromarray(np.ascontiguousarray(pixels[::-1]))
        self.frames.append(picture.resize((SIZE, SIZE)))


def _failures() -> tuple[type[Exception], ...]:
    """What MuJoCo's backends raise where a library or a device is missing."""
    common = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
    try:
        from OpenGL.error import Error
    except (ImportError, AttributeError):
        return common
    return (*common, Error)


def strip(frames: list[Image.Image], count: int) -> Image.Image:
    """`count` of the frames side by side, evenly spaced, the first and the last among them."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    picture = Image.new("RGB", (SIZE * len(chosen), SIZE))
    for place, index in enumerate(chosen):
        picture.paste(frames[index], (place * SIZE, 0))
    return picture
