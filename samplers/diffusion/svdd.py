"""SVDD: at every step, go on from the most promising of several random continuations.

Source: "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based
Decoding", arXiv 2408.08252, variant PM: a child's value is the reward of its clean-picture
estimate. Unlike the published code all children run in one batch, several chains run side by side,
and the children of the first choice start from noise of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from gensift.errors import ConfigError
from gensift.randomness import derived_seed, make_generators
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.config import SVDDConfig, chains_problem
from samplers.diffusion.resampling import Resampling, ResamplingSearch
from samplers.diffusion.schedule import Checkpoint
from samplers.drawing import draw_one


class SVDD(ResamplingSearch[SVDDConfig]):
    """Each chain chooses among its children's clean-picture estimates, again and again."""

    name: ClassVar[str] = "svdd"
    config_class: ClassVar[type[SVDDConfig]] = SVDDConfig

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """Every `every` steps of `num_steps`; at the last one the final scoring chooses."""
        every = self.config.every
        return tuple(Checkpoint(index, 1.0) for index in range(every - 1, num_steps - 1, every))

    def num_candidates(self, call: PipelineCall) -> int:
        """Rows per prompt: as configured, or the most whole chains that the budget allows."""
        children, count = self.config.children, super().num_candidates(call)
        if self.config.num_candidates is not None:
            return count
        if self.config.budget is None:
            return math.ceil(count / children) * children
        if count < children:
            raise ConfigError(
                f"budget {self.config.budget:g} pays for {count} rows, fewer than the {children} "
                "children of one chain; raise the budget or lower `children`."
            )
        return count - count % children

    def check(self, call: PipelineCall, num_candidates: int) -> None:
        """See `DiffusionSearch`; candidates must make up whole chains."""
        if num_candidates % self.config.children:
            raise ConfigError(f"SVDD: {chains_problem(num_candidates, self.config.children)}.")
        super().check(call, num_candidates)

    def strategy(self, seeds: Sequence[int], num_steps: int) -> Chains:
        """The chains of one prompt."""
        return Chains(self.config, seeds)


class Chains(Resampling):
    """The chains of one prompt, each a run of neighbouring candidates."""

    def __init__(self, config: SVDDConfig, seeds: Sequence[int]) -> None:
        self._config = config
        (self._generator,) = make_generators([derived_seed(seeds, "svdd")])

    def parents(self, rewards: Sequence[float]) -> list[int]:
        """The parent of each candidate: the chosen one of its chain."""
        children = self._config.children
        chosen = [self._child(rewards, start) for start in range(0, len(rewards), children)]
        return [parent for parent in chosen for _ in range(children)]

    def _child(self, rewards: Sequence[float], start: int) -> int:
        own = rewards[start : start + self._config.children]
        if not any(map(math.isfinite, own)):
            # A chain without a single usable picture goes on from the best one of all.
            return _best(rewards)
        if self._config.alpha == 0:
            return start + _best(own)
        values = torch.tensor(own, dtype=torch.float64)
        # Relative to the best, so that a small alpha cannot overflow.
        log_weights = (values - values.max()) / self._config.alpha
        return start + draw_one(log_weights, self._generator)


def _best(rewards: Sequence[float]) -> int:
    return max(range(len(rewards)), key=lambda place: rewards[place])
