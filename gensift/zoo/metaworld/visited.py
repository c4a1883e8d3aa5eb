"""What a policy sees along its own episodes: caches are calibrated on that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gensift.pipelines.policy.control import History, RecedingHorizon
from gensift.zoo.metaworld.rollouts import Arena
from gensift.zoo.metaworld.tasks import TASKS, VALIDATION_SEED


class Watching(RecedingHorizon):
    """A policy at the helm that keeps what was seen at each plan.

    Attributes:
        seen: per plan float32 `(robots, n_obs_steps, obs_dim)`.
    """

    def __init__(self, pipe: Any, **arguments: Any) -> None:
        super().__init__(pipe, **arguments)
        self.seen: list[Tensor] = []

    def actions(
        self, histories: Sequence[History], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """See `RecedingHorizon.actions`."""
        self.seen.append(torch.stack([history.stacked() for history in histories]))
        return super().actions(histories, generators)


def visited(pipe: Any, goals: Sequence[int], **arguments: Any) -> list[Tensor]:
    """Observations of all plans of episodes on validation goals of every task, shuffled.

    Each is float32 `(steps, observation size)`.

    Args:
        pipe: the policy, without a cache.
        goals: numbers of goals; an episode for each and every task.
        arguments: of the pipeline's call.
    """
    found: list[Tensor] = []
    for task in TASKS:
        arena, watching = Arena(task, VALIDATION_SEED), Watching(pipe, **arguments)
        try:
            arena.run(watching, goals)
        finally:
            arena.close()
        found += [row for batch in watching.seen for row in batch]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[index] for index in order]
