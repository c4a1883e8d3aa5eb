"""What every search over diffusion candidates promises, ready to be asked of any of them.

Each check takes the search's class, options that make it small, and what builds a pipeline with the
arguments of a call (`helpers.tiny_pipelines.build`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gensift.denoising.modules import denoisers_of
from gensift.trace import Trace
from samplers.diffusion.attach import attach
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.search import DiffusionSearch

SEEDS = list(range(6))
TOLERANCE = 2e-5  # pictures in [0, 1]; batch-size rounding of random networks
Build = Callable[[], tuple[Any, Callable[[Sequence[int]], dict[str, Any]]]]


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A reward: the spread of each picture's pixels."""
    return images.flatten(1).std(1)


def run(search: DiffusionSearch[Any], pipe: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
    """Pictures of one attached call `(outputs, 3, height, width)`, and what was found."""
    with attach(search, pipe, prompts=["a tiny picture"]) as attached:
        images = pipe(**kwargs, output_type="pt", return_dict=False)[0]
    return middle_frames(images), attached.output


def middle_frames(images: Tensor) -> Tensor:
    """Videos are scored by their middle frame; pictures are as they are."""
    return images[:, images.shape[1] // 2] if images.ndim == 5 else images


def close(left: Tensor, right: Tensor) -> bool:
    """Whether pictures are the same but for rounding."""
    return bool((left - right).abs().max() <= TOLERANCE)


def planned_cost_is_spent(make: type[DiffusionSearch[Any]], build: Build, **options: Any) -> None:
    """Planned cost = spent cost."""
    pipe, call_kwargs = build()
    kwargs, search = call_kwargs(SEEDS), make(contrast, **options)
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), kwargs, ["a"])
    planned = search.plan_call(call, len(SEEDS))
    _, output = run(search, pipe, kwargs)
    assert output.cost.difference(planned.cost) == {}


def micro_batches_change_nothing(
    make: type[DiffusionSearch[Any]], build: Build, **options: Any
) -> None:
    """Same seeds, any `max_rows`: same winner, same work."""
    pipe, call_kwargs = build()
    images, whole = run(make(contrast, **options), pipe, call_kwargs(SEEDS))
    again, small = run(make(contrast, max_rows=2, **options), pipe, call_kwargs(SEEDS))
    assert whole.seeds == small.seeds and close(images, again)
    assert whole.cost.nfe == small.cost.nfe


def traces_are_read_back(make: type[DiffusionSearch[Any]], build: Build, **options: Any) -> None:
    """Save -> load -> same trace; the winner is that of the trace."""
    pipe, call_kwargs = build()
    _, output = run(make(contrast, **options), pipe, call_kwargs(SEEDS))
    assert Trace.from_json(output.trace.to_json()) == output.trace
    (trace,), (result,) = output.trace.prompts, output.results
    assert trace.stages[-1].is_final and result.seeds[0] == trace.seeds[trace.winner]
    assert result.rewards[0] == max(trace.stages[-1].combined)


def failures_leave_no_trace(
    make: type[DiffusionSearch[Any]],
    build: Build,
    failure: type[BaseException],
    plain: Callable[[Any, dict[str, Any]], Tensor],
    **options: Any,
) -> None:
    """An exception in a reward, or Ctrl-C, leaves the pipeline as it was."""

    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise failure("no scores")

    pipe, call_kwargs = build()
    before = plain(pipe, call_kwargs(SEEDS))
    plain_class = type(pipe)
    with pytest.raises(failure), attach(make(failing, **options), pipe, prompts=["a"]):
        pipe(**call_kwargs(SEEDS), output_type="pt")
    assert type(pipe) is plain_class
    assert "step" not in vars(pipe.scheduler)
    for denoiser in denoisers_of(pipe):
        registry = getattr(denoiser, "_diffusers_hook", None)
        assert registry is None or not registry.hooks
        assert "forward" not in vars(denoiser)
    assert torch.equal(plain(pipe, call_kwargs(SEEDS)), before)
