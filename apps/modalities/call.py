"""What a command asks of a pipeline's own call: checked, and completed by the model's defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

from apps.jobs.options import GenerateOptions, call_arguments
from gensift.errors import ConfigError
from gensift.protocols import JsonObject, Pipeline


class ResolvedCall(NamedTuple):
    """Arguments of a pipeline's call.

    Attributes:
        call: those that differ from the model's own.
        pipeline_call: all of them; with a seed they reproduce a sample in a plain call.
        guidance: keyword that sets the strength of guidance.
    """

    call: JsonObject
    pipeline_call: JsonObject
    guidance: str


def arguments_of(pipeline: Pipeline) -> frozenset[str]:
    """Names of the arguments that the pipeline's call knows."""
    return frozenset(inspect.signature(type(pipeline).__call__).parameters)


def resolve(
    options: GenerateOptions,
    pipeline: Pipeline,
    guidance: str,
    implied: Callable[[JsonObject], JsonObject] = lambda call: {},
) -> ResolvedCall:
    """Read the options that reach the pipeline's call.

    Args:
        options: of the command.
        pipeline: that will be called.
        guidance: keyword that sets the strength of guidance.
        implied: returns what follows from the arguments that are given.

    Raises:
        ConfigError: an argument is unknown, malformed, or given in two ways.
    """
    from gensift.pipelines.loading import call_defaults

    own = {"num_inference_steps": options.steps, guidance: options.guidance_scale}
    call = call_arguments(options, arguments_of(pipeline))
    for name in own.keys() & call.keys():
        if own[name] is not None:
            raise ConfigError(f"`{name}` is given by --call and by an option of its own; give one.")
    call |= {name: value for name, value in own.items() if value is not None}
    defaults = call_defaults(pipeline)
    call |= implied({**defaults, **call})
    return ResolvedCall(call, {**defaults, **call}, guidance)
