"""Conformance of searches on every supported family: the row gate's promises, end to end."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.gated_runs import plain_images
from helpers.tiny_pipelines import FAMILIES, build
from torch import Tensor

from gensift.denoising.modules import denoisers_of
from samplers.diffusion.attach import attach
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import TTSnap

SEARCHABLE = [name for name in FAMILIES if name != "dit"]
SEEDS = list(range(6))
TOLERANCE = 2e-5  # pictures in [0, 1]; batch-size rounding of random networks


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).std(1)


def run(search: DiffusionSearch, pipe: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Any]:
    with attach(search, pipe, prompts=["a tiny picture"]) as attached:
        images = pipe(**kwargs, output_type="pt", return_dict=False)[0]
    return _pictures(images), attached.output


def _pictures(images: Tensor) -> Tensor:
    # Videos are judged by their middle frame.
    return images[:, images.shape[1] // 2] if images.ndim == 5 else images


def close(left: Tensor, right: Tensor) -> bool:
    return bool((left - right).abs().max() <= TOLERANCE)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_best_of_n_returns_the_best_of_the_plain_pictures(family: str) -> None:
    pipe, call_kwargs = build(family)
    plain = _pictures(plain_images(pipe, call_kwargs(SEEDS)))
    images, output = run(BestOfN(contrast), pipe, call_kwargs(SEEDS))
    best = int(contrast(plain, []).argmax())
    assert output.seeds == [SEEDS[best]]
    assert close(images, plain[[best]])


@pytest.mark.parametrize("family", SEARCHABLE)
def test_without_reward_and_pruning_the_pictures_are_the_plain_ones_bit_for_bit(
    family: str,
) -> None:
    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    with attach(BestOfN(None), pipe, prompts=["a"]):
        images = pipe(**call_kwargs(SEEDS), output_type="pt", return_dict=False)[0]
    assert torch.equal(images, plain)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_the_winner_of_a_pruned_search_is_what_its_seed_gives_alone(family: str) -> None:
    pipe, call_kwargs = build(family)
    images, output = run(TTSnap(contrast), pipe, call_kwargs(SEEDS))
    solo = _pictures(plain_images(pipe, call_kwargs(output.seeds)))
    assert close(images, solo)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_planned_cost_is_spent_cost(family: str) -> None:
    pipe, call_kwargs = build(family)
    kwargs = call_kwargs(SEEDS)
    search = TTSnap(contrast)
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), kwargs, ["a"])
    planned = search.plan_call(call, len(SEEDS))
    _, output = run(search, pipe, kwargs)
    assert output.cost.difference(planned.cost) == {}
    assert output.cost.nfe < planned.guidance_rows * planned.num_steps * len(SEEDS)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_micro_batches_choose_the_same_winner(family: str) -> None:
    pipe, call_kwargs = build(family)
    images, whole = run(TTSnap(contrast), pipe, call_kwargs(SEEDS))
    again, small = run(TTSnap(contrast, max_rows=2), pipe, call_kwargs(SEEDS))
    assert whole.seeds == small.seeds and close(images, again)
    assert whole.cost.nfe == small.cost.nfe


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("family", SEARCHABLE)
def test_a_failing_reward_leaves_the_pipeline_as_it_was(
    family: str, failure: type[BaseException]
) -> None:
    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise failure("no verdict")

    pipe, call_kwargs = build(family)
    plain = plain_images(pipe, call_kwargs(SEEDS))
    before = (type(pipe), set(vars(pipe.scheduler)), [set(vars(d)) for d in denoisers_of(pipe)])
    with pytest.raises(failure), attach(TTSnap(failing), pipe, prompts=["a"]):
        pipe(**call_kwargs(SEEDS), output_type="pt")
    assert type(pipe) is before[0]
    assert "step" not in vars(pipe.scheduler)
    for denoiser in denoisers_of(pipe):
        registry = getattr(denoiser, "_diffusers_hook", None)
        assert registry is None or not registry.hooks
        assert "forward" not in vars(denoiser)
    assert torch.equal(plain_images(pipe, call_kwargs(SEEDS)), plain)
