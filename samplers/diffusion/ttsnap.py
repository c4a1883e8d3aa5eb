"""TTSnap: prune candidates while they are still noise, and spend the compute on more of them.

Source: "TTSnap: Test-Time Scaling of Diffusion Models via Noise-Aware Pruning", arXiv 2511.22242.
Unlike the published simulation the cost counts every denoiser call, ties are broken by candidate
index, and candidates whose score is not finite never survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gensift.config import option
from samplers.diffusion.schedule import Checkpoint, PruningSchedule, schedule_problems
from samplers.diffusion.search import DiffusionSearch, SearchConfig


@dataclass(frozen=True, kw_only=True)
class TTSnapConfig(SearchConfig):
    """Options of TTSnap.

    The default schedule is the one that held up on published reward tables when candidates are
    judged by rewards made for clean pictures: late and gentle, (6, 8, 12) of 20 steps.
    """

    checkpoints: tuple[float, ...] = option(
        (0.30, 0.40, 0.60), help="where to prune, as shares of the denoising loop"
    )
    keep: tuple[float, ...] = option(
        (0.65, 0.65, 0.5), help="share of the living candidates kept at each checkpoint"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        yield from schedule_problems(self.checkpoints, self.keep)


class TTSnap(DiffusionSearch):
    """Draws many candidates, scores their clean-picture estimates early, drops the worst."""

    name: ClassVar[str] = "ttsnap"
    config_class: ClassVar[type[SearchConfig]] = TTSnapConfig
    config: TTSnapConfig

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The configured schedule for a loop of `num_steps`."""
        return PruningSchedule(self.config.checkpoints, self.config.keep).resolve(num_steps)
