"""Receding horizon: look at the last observations, execute a chunk of the plan, plan again."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gensift.pipelines.policy.pipeline import DiffusionPolicyPipeline


class History:
    """The latest observations of one robot; at first the first one stands for those before it."""

    def __init__(self, n_obs_steps: int) -> None:
        self._seen: deque[Tensor] = deque(maxlen=n_obs_steps)

    def see(self, observation: NDArray[np.generic] | Tensor) -> None:
        """Add an observation `(obs_dim,)`, the latest."""
        self._seen.append(torch.as_tensor(observation).float())

    def stacked(self) -> Tensor:
        """float32 `(n_obs_steps, obs_dim)`."""
        seen = list(self._seen)
        missing = (self._seen.maxlen or 0) - len(seen)
        return torch.stack([seen[0]] * missing + seen)


class RecedingHorizon:
    """A policy pipeline at the helm of any number of robots.

    control = RecedingHorizon(pipe, num_inference_steps=100)
    history = control.histories(1)[0]
    history.see(observation)
    for action in control.actions([history], [generator])[0]: ...
    """

    def __init__(self, pipe: DiffusionPolicyPipeline, **arguments: Any) -> None:
        """Control by `pipe`, called with `arguments`."""
        self._pipe, self._arguments = pipe, arguments

    def histories(self, count: int) -> list[History]:
        """Empty histories of robots that begin an episode."""
        return [History(self._pipe.n_obs_steps) for _ in range(count)]

    def actions(
        self, histories: Sequence[History], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """The next chunk of each robot, float32 `(robots, n_action_steps, action_dim)` on the CPU.

        Args:
            histories: what each robot has seen; at least one observation.
            generators: one per robot, so that its plan does not depend on the others'.
        """
        seen = torch.stack([history.stacked() for history in histories])
        output: Any = self._pipe(seen, generator=list(generators), **self._arguments)
        actions: Tensor = output.actions.cpu()
        return actions
