"""Runs of tiny pipelines with and without a row gate, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from helpers.tiny_pipelines import GUIDANCE_FACTOR

from gensift.denoising.bound import BoundPipeline, num_steps_of
from gensift.denoising.modules import denoisers_of
from gensift.denoising.observer import StepEvent, keep_rows, observe_scheduler
from samplers.diffusion.gating import gate_denoisers
from samplers.diffusion.row_gate import LiveRows

NUM_ROWS = 6
SEEDS = list(range(NUM_ROWS))
# Rows kept after these step indices: 6 -> 4 -> 2.
PLAN: Mapping[int, Sequence[int]] = {1: (0, 2, 3, 5), 3: (2, 5)}


class GatedRun(NamedTuple):
    images: torch.Tensor
    latents: torch.Tensor
    rows_run: int
    calls: int
    num_steps: int


def plain_images(pipe: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """The pipeline's own pictures `(rows, ...)` in [0, 1], nothing attached."""
    images: torch.Tensor = pipe(**kwargs, output_type="pt", return_dict=False)[0]
    return images


def plain_latents(pipe: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """The latents that the pipeline decodes, one row per generator."""
    last: list[torch.Tensor] = []
    with observe_scheduler(pipe.scheduler, lambda event: last.append(event.latents)):
        pipe(**kwargs, output_type="pt")
    return last[-1][: len(kwargs["generator"])]


def gated_run(
    pipe: Any,
    kwargs: dict[str, Any],
    plan: Mapping[int, Sequence[int]] = PLAN,
    max_rows: int | None = None,
) -> GatedRun:
    """One pipeline call pruned as planned; pictures and latents of the survivors only."""
    num_rows = len(kwargs["generator"])
    live = LiveRows(num_rows)
    latents: list[torch.Tensor] = []

    def on_step(event: StepEvent) -> torch.Tensor | None:
        if event.step_index in plan:
            live.prune(plan[event.step_index])
        latents[:] = [event.latents[list(live.alive)]]
        return keep_rows(event.latents, live.alive, num_rows) if event.is_last else None

    with (
        gate_denoisers(BoundPipeline.of(pipe), live, max_rows=max_rows) as gates,
        observe_scheduler(pipe.scheduler, on_step, num_steps=lambda: num_steps_of(pipe)),
    ):
        images = plain_images(pipe, kwargs)
    rows_run, calls = sum(g.rows_run for g in gates), sum(g.calls for g in gates)
    return GatedRun(images, latents[0], rows_run, calls, num_steps_of(pipe))


def planned_rows(family: str, num_steps: int) -> int:
    """Denoiser rows of `PLAN`."""
    return GUIDANCE_FACTOR[family] * (6 * 2 + 4 * 2 + 2 * (num_steps - 4))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest deviation as a share of the largest expected value."""
    return float((actual - expected).abs().max() / expected.abs().max())


def attached_state(pipe: Any) -> list[Any]:
    """What attaching touches: instance `forward`s, hook names, instance `step`."""
    state: list[Any] = [vars(pipe.scheduler).get("step")]
    for module in denoisers_of(pipe):
        registry = getattr(module, "_diffusers_hook", None)
        hooks = list(registry.hooks) if registry is not None else []
        state.append((vars(module).get("forward"), hooks))
    return state
