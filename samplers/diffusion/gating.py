"""Attaching row gates to a pipeline, and taking them off again whatever happened meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from gensift.denoising.bound import BoundPipeline
from gensift.denoising.modules import AttachedHook, denoisers_of, hooks_on
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import Pipeline
from samplers.diffusion.cached import follow_rows
from samplers.diffusion.row_gate import LiveRows, RowGate


def live_rows_of(pipe: Pipeline) -> LiveRows | None:
    """The alive set of the gates now attached to the pipeline, or None where there are none."""
    for module in denoisers_of(pipe):
        for hook in hooks_on(module):
            if isinstance(hook, RowGate) and not hook.is_closed:
                return hook.live
    return None


@contextmanager
def gate_denoisers(
    bound: BoundPipeline, live: LiveRows, *, max_rows: int | None = None
) -> Iterator[list[RowGate]]:
    """Gate every denoiser of a pipeline for one pipeline call.

    Enter after offloading is set up and leave right after the call: the end of a call with model
    offloading rebuilds `forward` and drops a gate without a word. On exit, also by an exception or
    Ctrl-C, hooks and `forward` are as before and offloaded models are freed.

    Args:
        bound: the pipeline, resolved.
        live: alive set shared by all gates.
        max_rows: most denoiser rows (guidance included) per denoiser call; None for no limit.

    Yields:
        One gate per denoiser.

    Raises:
        UnsupportedPipelineError: a cache of diffusers is on a denoiser, or one is not declared.
        ConfigError: the pipeline is gated already, or `max_rows` is below 1.
    """
    if live_rows_of(bound.pipe) is not None:
        raise ConfigError(
            f"{bound.class_name} already runs under a row gate; leave that block first."
        )
    for module in bound.denoisers:
        if getattr(module, "is_cache_enabled", False):
            raise UnsupportedPipelineError(
                f"A diffusers cache is enabled on {type(module).__name__}; it keeps one state for "
                "the whole batch and would mix pruned candidates. Call disable_cache() first."
            )
    follow_rows(bound.cache, live)
    is_finished = False
    try:
        with ExitStack() as stack:
            yield [
                stack.enter_context(_attached(module, RowGate(live, max_rows)))
                for module in bound.denoisers
            ]
        is_finished = True
    finally:
        # A pipeline that was cut short has not come to this last line of its own.
        if not is_finished:
            bound.pipe.maybe_free_model_hooks()


@contextmanager
def _attached(module: torch.nn.Module, gate: RowGate) -> Iterator[RowGate]:
    attached = AttachedHook(module, gate, "row_gate")
    try:
        yield gate
    finally:
        # Where other hooks lie above it, a closed gate stays.
        gate.close()
        attached.remove()
