"""FK steering: particles that are resampled by how promising their pictures look on the way.

Source: "A General Framework for Inference-time Scaling and Steering of Diffusion Models",
arXiv 2501.06848. What differs from the published code is told in `samplers.diffusion.particles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from gensift.config import option
from gensift.randomness import derived_seed, make_generators
from samplers.diffusion.particles import ParticleWeights, Potential
from samplers.diffusion.resampling import ResamplingConfig, ResamplingSearch
from samplers.diffusion.schedule import Checkpoint, PruningSchedule, schedule_problems
from samplers.diffusion.search import SearchConfig
from samplers.drawing import in_place, multinomial, systematic

_DRAWS = {"systematic": systematic, "multinomial": multinomial}


@dataclass(frozen=True, kw_only=True)
class FKSteeringConfig(ResamplingConfig):
    """Options of FK steering.

    Schedule, potential and strength are those of the published command line for SDXL with
    ImageReward; a reward whose scores spread less needs a higher strength.
    """

    potential: Potential = option(
        "max",
        choices=("max", "sum", "diff"),
        help="what weighs a particle: the highest of its rewards so far, their sum, or what the "
        "newest one adds",
    )
    strength: float = option(
        10.0, minimum=0, help="lambda: weights are exp(strength * reward); 0 never resamples"
    )
    checkpoints: tuple[float, ...] = option(
        (0.2, 0.4, 0.6, 0.8), help="where to weigh and resample, as shares of the denoising loop"
    )
    ess_threshold: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="resample where the effective number of particles is below this share of them",
    )
    resampling: Literal["systematic", "multinomial"] = option(
        "systematic",
        choices=("systematic", "multinomial"),
        help="how parents are drawn; systematic strays least from the weights",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        yield from schedule_problems(self.checkpoints, [1.0] * len(self.checkpoints))


class FKSteering(ResamplingSearch):
    """Weighs particles by their rewards on the way and lets the heavy ones take over.

    All `num_candidates` particles live to the end; the best finished ones are returned.
    """

    name: ClassVar[str] = "fk-steering"
    config_class: ClassVar[type[SearchConfig]] = FKSteeringConfig
    config: FKSteeringConfig

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """The configured schedule for a loop of `num_steps`; everyone goes on."""
        fractions = self.config.checkpoints
        return PruningSchedule(fractions, (1.0,) * len(fractions)).resolve(num_steps)

    def chooser(self, seeds: Sequence[int]) -> Particles:
        """The particles of one prompt."""
        return Particles(self.config, seeds)


class Particles:
    """The weights of one prompt's candidates, and the stream from which parents are drawn."""

    def __init__(self, config: FKSteeringConfig, seeds: Sequence[int]) -> None:
        self._config = config
        self._weights = ParticleWeights(len(seeds), config.potential, config.strength)
        (self._generator,) = make_generators([derived_seed(seeds, "fk-steering")])

    def choose(self, rewards: Sequence[float]) -> list[int]:
        """The parent of each particle: itself, unless the weights have become too uneven."""
        self._weights.update(rewards)
        if not self._weights.must_resample(self._config.ess_threshold):
            return list(range(len(rewards)))
        draw = _DRAWS[self._config.resampling]
        parents = in_place(draw(self._weights.log_weights, self._generator))
        self._weights.resample(parents)
        return parents
