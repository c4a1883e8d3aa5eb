"""An episode as it is reported; imports nothing heavy, as the command line writes and shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, kw_only=True)
class ActedEpisode:
    """An episode as it is reported.

    Attributes:
        goal: number of the held-out goal.
        seed: of the noise that its actions were made of.
        is_success: whether it was reached.
        steps: actions executed.
        strip: pictures of it side by side; None where none were drawn.
        no_strip: why not, of the episode that was to be drawn; None elsewhere.
    """

    goal: int
    seed: int
    is_success: bool
    steps: int
    strip: Image.Image | None = None
    no_strip: str | None = None
