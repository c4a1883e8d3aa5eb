"""Conformance of searches on every supported family: the row gate's promises, end to end."""

from functools import partial

import pytest
import torch
from helpers import search_conformance as conformance
from helpers.gated_runs import plain_images
from helpers.search_conformance import SEEDS, close, contrast, middle_frames, run
from helpers.tiny_pipelines import FAMILIES, build

from samplers.diffusion.attach import attach
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.ttsnap import TTSnap

SEARCHABLE = [name for name in FAMILIES if name != "dit"]


@pytest.mark.parametrize("family", SEARCHABLE)
def test_best_of_n_returns_the_best_of_the_plainmiddle_frames(family: str) -> None:
    pipe, call_kwargs = build(family)
    plain = middle_frames(plain_images(pipe, call_kwargs(SEEDS)))
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
    solo = middle_frames(plain_images(pipe, call_kwargs(output.seeds)))
    assert close(images, solo)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_planned_cost_is_spent_cost(family: str) -> None:
    conformance.planned_cost_is_spent(TTSnap, partial(build, family))
    pipe, call_kwargs = build(family)
    _, pruned = run(TTSnap(contrast), pipe, call_kwargs(SEEDS))
    _, whole = run(BestOfN(contrast), pipe, call_kwargs(SEEDS))
    assert pruned.cost.nfe < whole.cost.nfe


@pytest.mark.parametrize("family", SEARCHABLE)
def test_micro_batches_choose_the_same_winner(family: str) -> None:
    conformance.micro_batches_change_nothing(TTSnap, partial(build, family))


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("family", SEARCHABLE)
def test_a_failing_reward_leaves_the_pipeline_as_it_was(
    family: str, failure: type[BaseException]
) -> None:
    conformance.failures_leave_no_trace(TTSnap, partial(build, family), failure, plain_images)
