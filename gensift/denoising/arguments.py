"""Reading the arguments of a denoiser call by name."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch

from gensift.protocols import Arguments, CallArguments


def bind_arguments(
    module: torch.nn.Module, args: tuple[object, ...], kwargs: CallArguments
) -> Arguments:
    """Arguments of a call of `module` by name, all of which may be given as keywords.

    LoRA scales are looked up among keywords. The signature is that of the class, as hooks hide the
    one of the module.
    """
    cls: Any = type(module)
    signature = _signature(cls)
    bound = signature.bind(module, *args, **kwargs)
    arguments: Arguments = {}
    for name, value in list(bound.arguments.items())[1:]:
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        else:
            arguments[name] = value
    return arguments


def argument_of(
    module: torch.nn.Module, name: str, args: tuple[object, ...], kwargs: CallArguments
) -> Any:
    """One argument of a call of `module`, without the time it takes to bind them all."""
    return kwargs[name] if name in kwargs else args[parameters_of(module).index(name)]


def parameters_of(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, in order; hooks hide them on the module."""
    cls: Any = type(module)
    return _parameters(cls)


@cache
def _parameters(cls: Any) -> tuple[str, ...]:
    return tuple(_signature(cls).parameters)[1:]


@cache
def _signature(cls: Any) -> inspect.Signature:
    return inspect.signature(cls.forward)
