"""A per-step callback for any supported pipeline, with or without a sampler around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gensift.denoising.bound import BoundPipeline, num_steps_of
from gensift.denoising.observer import OnStep, observe_scheduler
from gensift.protocols import Pipeline
from samplers.diffusion.gating import live_rows_of


@contextmanager
def observe_steps(
    pipe: Pipeline, callback: OnStep, *, num_candidates: int | None = None
) -> Iterator[None]:
    """Call `callback(event)` after every denoising step of calls made inside the block.

        with observe_steps(pipe, lambda event: sigmas.append(event.sigma)):
            pipe("a red circle", num_inference_steps=28)

    The `StepEvent` carries latents, sigma, `pred_original_sample` (computed when read) and the live
    rows: those of a sampler that prunes this very run, else all. A tensor returned by the callback
    replaces the latents. Unlike `callback_on_step_end` this works on every pipeline, also those
    without any callback.

    Args:
        pipe: a diffusers pipeline whose denoiser is declared.
        callback: gets a `StepEvent`, returns None or latents of the same shape.
        num_candidates: number of candidates in the pipeline call, for `event.live_rows` where no
            sampler is attached.

    Raises:
        UnsupportedPipelineError: the denoiser is not declared.
    """
    bound = BoundPipeline.of(pipe)

    def live_rows() -> tuple[int, ...] | None:
        live = live_rows_of(pipe)
        if live is not None:
            return live.alive
        return None if num_candidates is None else tuple(range(num_candidates))

    with observe_scheduler(
        bound.scheduler, callback, num_steps=lambda: num_steps_of(pipe), live_rows=live_rows
    ):
        yield
