"""Keeping what a cache decides out of the graphs that torch.compile makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_disable: Any = torch.compiler.disable

_REASON = "a cache decides anew at every step; compile the denoiser without fullgraph=True"


def between_graphs(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let `function` run as it is; what it calls is compiled by itself.

    In a graph with the denoiser, it would have the denoiser compiled anew for every step.
    """
    found: Callable[Parameters, Result] = _disable(function, recursive=False, reason=_REASON)
    return found


def outside_graphs(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let `function`, and what it calls, run as they are."""
    found: Callable[Parameters, Result] = _disable(function, reason=_REASON)
    return found
