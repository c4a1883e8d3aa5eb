"""Where a denoising loop stands, told by the scheduler itself and never by counting calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from types import MethodType

from gensift.denoising.copies import leave_out_of_copies, without_attribute
from gensift.denoising.observer import StepEvent, observe_scheduler
from gensift.errors import ConfigError
from gensift.protocols import Scheduler


class StepClock:
    """Follows the runs of one scheduler: `set_timesteps` begins a run, `step` ends a step.

    Attributes:
        scheduler: whose loop is followed.
        num_steps: steps of the schedule; 0 before the first run.
        runs: runs begun so far.
    """

    def __init__(
        self, scheduler: Scheduler, on_start: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        """Follow `scheduler`.

        Args:
            scheduler: of diffusers.
            on_start: called when its schedule is made, before the loop.
            on_end: called after the last step; not where a run is broken off.

        Raises:
            ConfigError: something watches the scheduler already.
        """
        if "step" in vars(scheduler):
            raise ConfigError(
                "A search, an observer or another cache is at work on this pipeline; leave its "
                "block, or call disable_cache, before a cache is enabled."
            )
        self.scheduler = scheduler
        self.num_steps = self.runs = 0
        self._done = 0
        self._on_start, self._on_end = on_start, on_end
        self._stack = ExitStack()
        self._stack.enter_context(observe_scheduler(scheduler, self._advance))
        self._own_step = vars(scheduler)["step"]
        vars(scheduler)["set_timesteps"] = MethodType(_told(self), scheduler)
        self._stack.callback(
            leave_out_of_copies(scheduler, without_attribute(scheduler, "set_timesteps"))
        )

    @property
    def step_index(self) -> int:
        """Place in the schedule of the step that comes next; `num_steps` after the last."""
        # Image-to-image pipelines begin in the middle of the schedule, and say so.
        return (getattr(self.scheduler, "begin_index", None) or 0) + self._done

    @property
    def is_running(self) -> bool:
        """Whether a step of the schedule is still to be made."""
        return self.step_index < self.num_steps

    def stop(self) -> None:
        """Leave the scheduler as it was.

        Raises:
            ConfigError: something else watches the scheduler since.
        """
        if vars(self.scheduler).get("step") is not self._own_step:
            raise ConfigError(
                "A search or an observer is at work on this pipeline; leave its block before the "
                "cache is disabled."
            )
        del self.scheduler.set_timesteps
        self._stack.close()

    def begin(self) -> None:
        """A schedule was made."""
        self.num_steps = len(self.scheduler.timesteps)
        self._done = 0
        self.runs += 1
        self._on_start()

    def _advance(self, event: StepEvent) -> None:
        self._done += 1
        if not self.is_running:
            self._on_end()


def _told(clock: StepClock) -> Callable[..., None]:
    """`set_timesteps` of the class, which pipelines inspect, and a word to the clock."""
    plain = type(clock.scheduler).set_timesteps

    @functools.wraps(plain)
    def set_timesteps(self: Scheduler, *args: object, **kwargs: object) -> None:
        plain(self, *args, **kwargs)
        # A deep copy carries this method too, but it is another scheduler.
        if self is clock.scheduler:
            clock.begin()

    return set_timesteps
