"""What we ask of objects that are not ours, as small as it is: pipelines, schedulers, listeners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""A mapping of JSON's own types, as it is written to a file or read from one."""

CallArguments: TypeAlias = Mapping[str, Any]
"""Keyword arguments of a pipeline's own call; which they are only the pipeline knows."""


Arguments: TypeAlias = dict[str, Any]
"""Keyword arguments of a call by name, while they are put together."""

PipelineOutput: TypeAlias = Any
"""What a pipeline returns: a tuple or an output dataclass, samples first."""

Sample: TypeAlias = Any
"""One sample, as the pipeline returned it: a picture, a tensor, a text, an episode."""

Timestep: TypeAlias = Any
"""A scheduler's own time value: a number, or a tensor without dimensions or with one."""

SchedulerOutput: TypeAlias = Any
"""What `scheduler.step` returns: a tuple or an output dataclass, latents first."""

AnyFunction: TypeAlias = Callable[..., Any]
"""A function that is not ours, called with whatever it is given."""


class Pipeline(Protocol):
    """What draws: a diffusers pipeline, or one of ours built like it.

    Its components (`scheduler`, `vae`, the denoiser under whatever name) are read as attributes;
    `gensift.denoising.bound.BoundPipeline` is the one place that looks them up.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Draw samples; what comes back is of the pipeline's own output class."""
        ...

    def __getattr__(self, name: str) -> Any:
        """A component, or whatever else the class has."""
        ...


class Scheduler(Protocol):
    """A diffusers scheduler: the timesteps of a denoising loop, and the step between two."""

    timesteps: Any
    """The scheduler's own time values of a loop, falling: a tensor `(steps,)`."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Lay out the timesteps of a loop."""
        ...

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Go from the latents at one timestep to those at the next."""
        ...

    def __getattr__(self, name: str) -> Any:
        """`sigmas`, `config` and what else the class has."""
        ...
