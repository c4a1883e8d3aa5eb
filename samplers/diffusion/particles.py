"""Particles: weights by what the reward says along the way, and drawing parents by the weights.

Everything is float64 and in the log domain, so rewards of any size neither overflow nor vanish.

Source: "A General Framework for Inference-time Scaling and Steering of Diffusion Models",
arXiv 2501.06848 (potentials; the final one makes their product exp(strength * final reward)).
Unlike the published code, weights accumulate until the particles are resampled, nothing is clamped,
and the running maximum starts below every reward rather than at 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samplers.diffusion.config import Potential as Potential
from samplers.drawing import effective_size


class ParticleWeights:
    """Log weights of N particles since they were last resampled.

    A potential G of each particle is read off its rewards r_1, ..., r_t so far:

    - max:  log G = strength * max(r_1, ..., r_t)
    - sum:  log G = strength * (r_1 + ... + r_t)
    - diff: log G = strength * (r_t - r_(t - 1)), with r_0 = 0

    The final one is what is left of strength * r_T after those before it, so that along every path
    the sum of log G is strength * r_T; for `diff` that is no other rule.

    Attributes:
        log_weights: float64 `(N,)`, not normalized; -inf for a particle without a finite reward.
    """

    def __init__(self, num_particles: int, potential: Potential, strength: float) -> None:
        self.log_weights = torch.zeros(num_particles, dtype=torch.float64)
        self._potential = potential
        self._strength = strength
        start = -torch.inf if potential == "max" else 0.0
        # What the potential remembers of a path: its highest reward, their sum, or the last one.
        self._memory = torch.full((num_particles,), start, dtype=torch.float64)
        self._log_path = torch.zeros(num_particles, dtype=torch.float64)

    def update(self, rewards: Tensor | Sequence[float], *, is_final: bool = False) -> None:
        """Weigh the particles by their newest rewards, `(N,)`; `is_final` for finished ones."""
        rewards = torch.as_tensor(rewards, dtype=torch.float64)
        if is_final:
            log_g = self._strength * rewards - self._log_path
        elif self._potential == "diff":
            log_g = self._strength * (rewards - self._memory)
        else:
            log_g = self._strength * self._accumulated(rewards)
        is_finite = torch.isfinite(rewards)
        memory = rewards if self._potential == "diff" else self._accumulated(rewards)
        self._memory = torch.where(is_finite, memory, self._memory)
        self._log_path = torch.where(is_finite, self._log_path + log_g, self._log_path)
        self.log_weights = torch.where(is_finite, self.log_weights + log_g, -torch.inf)

    def resample(self, parents: Sequence[int]) -> None:
        """Let particle `i` be a copy of particle `parents[i]`; all weigh the same again."""
        index = torch.tensor(parents)
        self._memory, self._log_path = self._memory[index], self._log_path[index]
        self.log_weights = torch.zeros_like(self.log_weights)

    def must_resample(self, ess_threshold: float) -> bool:
        """Whether the effective size is below that share of N, or a particle has weight 0."""
        size = len(self.log_weights)
        is_uneven = effective_size(self.log_weights) < ess_threshold * size * (1 - 1e-9)
        return is_uneven or bool(torch.isinf(self.log_weights).any())

    def _accumulated(self, rewards: Tensor) -> Tensor:
        if self._potential == "max":
            return torch.maximum(self._memory, rewards)
        return self._memory + rewards
