"""Local refinement: without rounds it is TTSnap, and rounds only ever add to what that found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, close, contrast, pictures, redness
from helpers.speaking_pipelines import speaking
from torch import Tensor

import gensift
from gensift.config import describe
from gensift.errors import ConfigError
from gensift.randomness import candidate_seeds
from samplers.diffusion.config import TTSnapConfig
from samplers.diffusion.local_refine import LocalRefine
from samplers.diffusion.ttsnap import TTSnap
from samplers.registry import SAMPLERS

FAMILIES = [("flux", None), ("sd15", "ddim"), ("sdxl", "euler")]
CALL = {"height": 16, "width": 16, "num_inference_steps": 8}


def found(search: Any, pipe: Any, prompts: Any = PROMPT, **call: Any) -> Any:
    return search(pipe, prompts, output_type="pt", **{**CALL, **call})


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_without_rounds_it_is_ttsnap_bit_for_bit(family: str, scheduler: str | None) -> None:
    pipe = speaking(family, scheduler)
    options = {"num_candidates": 8, "num_outputs": 2}
    refined = found(LocalRefine(contrast, rounds=0, **options), pipe)
    snapped = found(TTSnap(contrast, **options), pipe)
    assert torch.equal(refined.results[0].samples, snapped.results[0].samples)
    assert (refined.seeds, refined.rewards) == (snapped.seeds, snapped.rewards)
    assert refined.cost.same_work(snapped.cost)


@pytest.mark.parametrize("survivors", [1, 3])
@pytest.mark.parametrize("prune", [False, True])
def test_ttsnap_comes_first_and_its_survivors_are_refined(survivors: int, prune: bool) -> None:
    pipe = speaking("flux")
    schedule: dict[str, Any] = {"checkpoints": (0.3, 0.6), "keep": (0.5, 0.5)}
    search = LocalRefine(
        contrast, num_candidates=8, survivors=survivors, prune_rounds=prune, **schedule
    )
    (trace,) = found(search, pipe).trace.prompts
    snap = TTSnap(contrast, num_candidates=8, num_outputs=survivors, **schedule)
    (expected,) = found(snap, pipe).trace.prompts
    first = [stage for stage in trace.stages if stage.round == 0]
    assert [(s.alive, s.combined, s.kept) for s in first] == [
        (s.alive, s.combined, s.kept) for s in expected.stages
    ]
    pivots = set(expected.stages[-1].kept)
    assert {trace.parents[candidate] for candidate in range(8, 8 + 4 * survivors)} == pivots
    finals = [stage for stage in trace.stages if stage.is_final]
    assert len(finals) == 3
    best = [max(stage.combined) for stage in finals]
    assert best == sorted(best)
    early = [stage for stage in trace.stages if stage.round == 1 and not stage.is_final]
    assert len(early) == (2 if prune else 0)


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_the_winners_latents_give_its_picture_in_a_plain_call(
    family: str, scheduler: str | None, prune: bool
) -> None:
    pipe = speaking(family, scheduler)
    search = LocalRefine(contrast, num_candidates=4, rounds=3, prune_rounds=prune)
    output = found(search, pipe, ["a", PROMPT])
    for result, trace in zip(output.results, output.trace.prompts, strict=True):
        latents = search.initial_latents(pipe, trace, **CALL)
        assert close(pictures(pipe, trace.prompt, latents=latents, **CALL), result.samples)


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_planned_cost_is_spent_cost(
    family: str, scheduler: str | None, prune: bool, outputs: int
) -> None:
    pipe = speaking(family, scheduler)
    rewards = {"contrast": contrast, "redness": redness}
    search = LocalRefine(rewards, num_candidates=7, num_outputs=outputs, prune_rounds=prune)
    planned = search.plan(pipe, 2, **CALL)
    output = found(search, pipe, ["a", "b"])
    assert output.cost.difference(planned.cost) == {}
    assert [len(result.samples) for result in output.results] == [outputs] * 2


def test_a_budget_covers_all_phases() -> None:
    pipe = speaking("flux")

    def planned(**options: Any) -> Any:
        return LocalRefine(contrast, **options).plan(pipe, 1, **CALL)

    for budget in (200, 231):
        plan = planned(budget=budget)
        assert plan.cost.nfe <= budget < planned(num_candidates=plan.num_candidates + 1).cost.nfe
    with pytest.raises(ConfigError, match=r"below the cost of 2 candidate\(s\), 144"):
        planned(budget=143)


def test_micro_batches_and_other_prompts_change_nothing() -> None:
    pipe = speaking("flux")
    options: dict[str, Any] = {"num_candidates": 6, "prune_rounds": True}
    whole = found(LocalRefine(contrast, **options), pipe, ["a", PROMPT])
    small = found(LocalRefine(contrast, max_rows=2, **options), pipe, ["a", PROMPT])
    assert small.seeds == whole.seeds
    assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}
    alone = found(LocalRefine(contrast, **options), pipe, seeds=[candidate_seeds(0, 1, 6)])
    assert alone.seeds == whole.seeds[1:]
    assert close(alone.results[0].samples, whole.results[1].samples)


@pytest.mark.parametrize("calls", [0, 4])
def test_a_failing_reward_leaves_the_pipeline_as_it_was(calls: int) -> None:
    seen: list[int] = []

    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(len(images))
        return contrast(images, prompts)

    pipe = speaking("flux")
    plain = pictures(pipe, generator=torch.Generator().manual_seed(3))
    with pytest.raises(KeyboardInterrupt):
        found(LocalRefine(failing, num_candidates=4), pipe)
    assert "step" not in vars(pipe.scheduler) and "forward" not in vars(pipe.transformer)
    assert "prepare_latents" not in vars(pipe)
    assert torch.equal(pictures(pipe, generator=torch.Generator().manual_seed(3)), plain)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        LocalRefine(contrast, survivors=5, num_candidates=4, checkpoints=(0.5,), keep=(2.0,))
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError, match="raise the number of candidates"):
        LocalRefine(contrast, survivors=3).plan_call(*_small_call())


def _small_call() -> tuple[Any, int]:
    from samplers.diffusion.call import PipelineCall

    pipe = speaking("flux")
    arguments = {"prompt": [PROMPT], **CALL}
    return PipelineCall.bind(pipe, type(pipe).__call__, (), arguments), 2


def test_it_has_all_options_of_ttsnap() -> None:
    assert SAMPLERS.get("local-refine") is LocalRefine is gensift.LocalRefine
    mine = {row.name for row in describe(LocalRefine.config_class)}
    assert {row.name for row in describe(TTSnapConfig)} < mine
    assert not LocalRefine.is_reproducible
