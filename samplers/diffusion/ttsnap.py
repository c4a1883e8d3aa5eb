"""TTSnap: prune candidates while they are still noise, and spend the compute on more of them.

Source: "TTSnap: Test-Time Scaling of Diffusion Models via Noise-Aware Pruning", arXiv 2511.22242.
Unlike the published simulation the cost counts every denoiser call, ties are broken by candidate
index, and candidates whose score is not finite never survive.
"""

from __future__ import annotations

from typing import ClassVar

from rewards.protocol import is_noise_aware
from samplers.diffusion.config import TTSnapConfig
from samplers.diffusion.schedule import Checkpoint, PruningSchedule
from samplers.diffusion.search import DiffusionSearch
from samplers.scoring import reward_parts

# The schedules that held up best on published reward tables, over rewards, models and budgets.
CLEAN_SCHEDULE = PruningSchedule((0.30, 0.40, 0.60), (0.65, 0.65, 0.5))
NOISE_AWARE_SCHEDULE = PruningSchedule((0.25, 0.40), (0.4, 0.6))


class TTSnap(DiffusionSearch[TTSnapConfig]):
    """Draws many candidates, scores their clean-picture estimates early, drops the worst."""

    name: ClassVar[str] = "ttsnap"
    config_class: ClassVar[type[TTSnapConfig]] = TTSnapConfig
    shares_candidates: ClassVar[bool] = True

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The configured schedule for a loop of `num_steps`."""
        config = self.config
        if config.checkpoints is None and config.keep is None:
            default = NOISE_AWARE_SCHEDULE if self.is_noise_aware else CLEAN_SCHEDULE
            return default.resolve(num_steps)
        return PruningSchedule(config.checkpoints or (), config.keep or ()).resolve(num_steps)

    @property
    def is_noise_aware(self) -> bool:
        """Whether every reward judges early estimates as such."""
        parts = reward_parts(self.reward).values()
        return bool(parts) and all(map(is_noise_aware, parts))
