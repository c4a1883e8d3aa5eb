"""The scheduler's loop, each of its timesteps with the step of the schedule that it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.bfm.schedule import ScheduleStep, SegmentSchedule


class Timetable:
    """Timesteps and steps in the order in which the scheduler wants them.

    Searches may have a scheduler go through some timesteps again, so a timestep is looked up among
    those that the schedule gave, by its exact value.
    """

    def __init__(self, scheduler: Any, schedule: SegmentSchedule) -> None:
        """Set the scheduler's sigmas to those of the schedule.

        Raises:
            ConfigError: the scheduler cannot take them as they are.
        """
        if not type(scheduler).__name__.startswith("FlowMatchEuler"):
            raise ConfigError(
                f"{type(scheduler).__name__} may step across boundaries of segments; use "
                "FlowMatchEulerDiscreteScheduler(shift=1.0)."
            )
        config = scheduler.config
        if config.use_dynamic_shifting or config.shift != 1 or config.stochastic_sampling:
            raise ConfigError(
                "The scheduler shifts sigmas or samples stochastically; use "
                "FlowMatchEulerDiscreteScheduler(shift=1.0), and solver='sde' for noise."
            )
        scheduler.set_timesteps(sigmas=schedule.sigmas)
        sigmas = torch.tensor([*schedule.sigmas, 0.0], dtype=torch.float32)
        if not torch.equal(scheduler.sigmas.cpu(), sigmas):
            raise ConfigError(
                "The scheduler moves sigmas away from the boundaries of segments; use "
                "FlowMatchEulerDiscreteScheduler(shift=1.0) without karras, exponential or beta "
                "sigmas."
            )
        times = (sigmas[:-1] * config.num_train_timesteps).tolist()
        self._steps = dict(zip(times, schedule.steps, strict=True))
        self._timesteps: Tensor = scheduler.timesteps

    def __len__(self) -> int:
        return len(self._timesteps)

    def __iter__(self) -> Iterator[tuple[Tensor, ScheduleStep]]:
        for timestep in self._timesteps:
            yield timestep, self._steps[float(timestep)]
