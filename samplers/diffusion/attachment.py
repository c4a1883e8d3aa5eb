"""Attaching row gates to a pipeline, and taking them off again whatever happened meanwhile.

The only module of this package that touches names which diffusers does not document.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry
from diffusers.utils.torch_utils import get_module_execution_device, unwrap_module

from gensift.errors import ConfigError, UnsupportedPipelineError
from samplers.diffusion.families import DenoiserFamily, denoiser_components, family_of
from samplers.diffusion.row_gate import LiveRows, RowGate

_numbers = itertools.count()


def denoisers_of(pipe: Any) -> list[torch.nn.Module]:
    """The denoisers of a pipeline, out of any torch.compile wrapper; two for two-expert Wan.

    Raises:
        UnsupportedPipelineError: there is none.
    """
    modules = [_unwrapped(getattr(pipe, name, None)) for name in denoiser_components()]
    found = [module for module in modules if isinstance(module, torch.nn.Module)]
    if not found:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has no denoiser in any of {', '.join(denoiser_components())}. "
            "Declare it with samplers.diffusion.families.declare_denoiser(DenoiserFamily(..., "
            'components=("attribute",))).'
        )
    return found


def family_of_pipeline(pipe: Any) -> DenoiserFamily:
    """The family of the pipeline's denoiser.

    Raises:
        UnsupportedPipelineError: no denoiser, or one whose class is not declared.
    """
    return family_of(denoisers_of(pipe)[0])


def live_rows_of(pipe: Any) -> LiveRows | None:
    """The alive set of the gates now attached to the pipeline, or None where there are none."""
    for module in denoisers_of(pipe):
        for hook in _hooks(module):
            if isinstance(hook, RowGate) and not hook.is_closed:
                return hook.live
    return None


def execution_device(module: torch.nn.Module) -> torch.device:
    """Where inputs of the module must lie; offloaded modules are called away from their weights."""
    device: torch.device = get_module_execution_device(module)
    return device


def move_scheduler(scheduler: Any, step: int) -> None:
    """Make `step` the next one that a scheduler takes from its table of sigmas, in mid-run.

    Schedulers without such a table (DDIM) go by the timestep alone; nothing is to be done there.
    """
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = step


@contextmanager
def gate_denoisers(
    pipe: Any, live: LiveRows, *, max_rows: int | None = None
) -> Iterator[list[RowGate]]:
    """Gate every denoiser of a pipeline for one pipeline call.

    Enter after offloading is set up and leave right after the call: the end of a call with model
    offloading rebuilds `forward` and drops a gate without a word. On exit, also by an exception or
    Ctrl-C, hooks and `forward` are as before and offloaded models are freed.

    Args:
        pipe: a diffusers pipeline whose denoisers are declared.
        live: alive set shared by all gates.
        max_rows: most denoiser rows (guidance included) per denoiser call; None for no limit.

    Yields:
        One gate per denoiser.

    Raises:
        UnsupportedPipelineError: a denoiser is missing or not declared.
        ConfigError: the pipeline is gated already, or `max_rows` is below 1.
    """
    if live_rows_of(pipe) is not None:
        raise ConfigError(
            f"{type(pipe).__name__} already runs under a row gate; leave that block first."
        )
    for module in denoisers_of(pipe):
        if getattr(module, "is_cache_enabled", False):
            raise UnsupportedPipelineError(
                f"A diffusers cache is enabled on {type(module).__name__}; it keeps one state for "
                "the whole batch and would mix pruned candidates. Call disable_cache() first."
            )
    is_finished = False
    try:
        with ExitStack() as stack:
            yield [
                stack.enter_context(_attached(module, RowGate(live, max_rows)))
                for module in denoisers_of(pipe)
            ]
        is_finished = True
    finally:
        # A pipeline that was cut short has not come to this last line of its own.
        if not is_finished:
            pipe.maybe_free_model_hooks()


@contextmanager
def _attached(module: torch.nn.Module, gate: RowGate) -> Iterator[RowGate]:
    had_forward = "forward" in vars(module)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    name = f"gensift_row_gate_{next(_numbers)}"
    registry.register_hook(gate, name)
    installed = vars(module)["forward"]
    try:
        yield gate
    finally:
        gate.close()
        _detach(module, gate, name, installed, had_forward)


def _detach(
    module: torch.nn.Module, gate: RowGate, name: str, installed: Any, had_forward: bool
) -> None:
    hooks = _hooks(module)
    # The registry can only take off its last hook; below another one, a closed gate stays.
    if not hooks or hooks[-1] is not gate:
        return
    current = vars(module).get("forward")
    HookRegistry.check_if_exists_or_initialize(module).remove_hook(name, recurse=False)
    if current is None or (current is installed and not had_forward):
        vars(module).pop("forward")
    elif current is not installed:
        # Offloading has rebuilt `forward` since; the registry has just put back a stale one.
        vars(module)["forward"] = current


def _unwrapped(module: Any) -> Any:
    return unwrap_module(module)


def _hooks(module: torch.nn.Module) -> list[Any]:
    registry = getattr(module, "_diffusers_hook", None)
    return list(registry.hooks.values()) if registry is not None else []
