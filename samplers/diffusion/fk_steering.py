"""FK steering: particles that are resampled by how promising their pictures look on the way.

Source: "A General Framework for Inference-time Scaling and Steering of Diffusion Models",
arXiv 2501.06848. What differs from the published code is said in `samplers.diffusion.particles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from gensift.randomness import derived_seed, make_generators
from samplers.diffusion.config import FKSteeringConfig
from samplers.diffusion.particles import ParticleWeights
from samplers.diffusion.resampling import Resampling, ResamplingSearch
from samplers.diffusion.schedule import Checkpoint, PruningSchedule
from samplers.drawing import in_place, multinomial, systematic

_DRAWS = {"systematic": systematic, "multinomial": multinomial}


class FKSteering(ResamplingSearch[FKSteeringConfig]):
    """Weighs particles by their rewards on the way and lets the heavy ones take over.

    All `num_candidates` particles live to the end; the best finished ones are returned.
    """

    name: ClassVar[str] = "fk-steering"
    config_class: ClassVar[type[FKSteeringConfig]] = FKSteeringConfig

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The configured schedule for a loop of `num_steps`; everyone goes on."""
        fractions = self.config.checkpoints
        return PruningSchedule(fractions, (1.0,) * len(fractions)).resolve(num_steps)

    def strategy(self, seeds: Sequence[int], num_steps: int) -> Particles:
        """The particles of one prompt."""
        return Particles(self.config, seeds)


class Particles(Resampling):
    """The weights of one prompt's candidates, and the stream from which parents are drawn."""

    def __init__(self, config: FKSteeringConfig, seeds: Sequence[int]) -> None:
        self._config = config
        self._weights = ParticleWeights(len(seeds), config.potential, config.strength)
        (self._generator,) = make_generators([derived_seed(seeds, "fk-steering")])

    def parents(self, rewards: Sequence[float]) -> list[int]:
        """The parent of each particle: itself, unless the weights have become too uneven."""
        self._weights.update(rewards)
        if not self._weights.must_resample(self._config.ess_threshold):
            return list(range(len(rewards)))
        draw = _DRAWS[self._config.resampling]
        drawn = in_place(draw(self._weights.log_weights, self._generator))
        self._weights.resample(drawn)
        return drawn
