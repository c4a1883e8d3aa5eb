"""Plans against what calls really cost, and budgets against brute force over all counts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from inspect import signature
from types import MethodType
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, contrast, redness
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from torch import Tensor

import gensift
from gensift.errors import ConfigError, UnsupportedPipelineError
from rewards.protocol import Reward
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.planning import DiffusionPlan as Plan
from samplers.diffusion.schedule import search_cost
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import TTSnap
from samplers.diffusion.unit_costs import measure_unit_costs

STEPS = 10
CALL = {**SIZE, "num_inference_steps": STEPS}
PRICED: dict[str, Any] = {**SIZE, "num_inference_steps": 6}


@pytest.mark.parametrize("search", [TTSnap, BestOfN])
@pytest.mark.parametrize(
    ("prompts", "count", "steps", "outputs", "call"),
    [
        (1, 7, 10, 1, {}),
        (2, 5, 7, 2, {}),
        (1, 1, 1, 1, {}),
        (1, 4, 2, 4, {}),
        (2, 3, 4, 1, {"negative_prompt": ["", ""], "true_cfg_scale": 2.0}),
    ],
)
def test_planned_cost_is_spent_cost(
    search: type[DiffusionSearch],
    prompts: int,
    count: int,
    steps: int,
    outputs: int,
    call: dict[str, Any],
) -> None:
    pipe = speaking("flux")
    call = {**SIZE, "num_inference_steps": steps, **call}
    sampler = search(
        {"contrast": contrast, "redness": redness}, num_candidates=count, num_outputs=outputs
    )
    planned = sampler.plan(pipe, prompts, **call)
    output = sampler(pipe, ["a", "b"][:prompts], **call)
    assert output.cost.difference(planned.cost) == {}
    assert planned.guidance_rows == (2 if "negative_prompt" in call else 1)
    assert len(output.images) == prompts * outputs
    stages = [(s.step_index, len(s.alive), len(s.kept)) for s in output.trace.prompts[0].stages]
    assert stages == [(s.step_index, s.alive, s.kept) for s in planned.stages]


GUIDED = {
    "flux": {"negative_prompt": "", "true_cfg_scale": 2.0},
    "sd15": {"guidance_scale": 2.0},
}


@pytest.mark.parametrize("max_rows", [None, 4])
@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("family", GUIDED)
def test_the_planned_peak_is_the_largest_forward_pass(
    family: str, is_guided: bool, max_rows: int | None
) -> None:
    pipe = speaking(family)
    call = {**SIZE, "num_inference_steps": 2, **(GUIDED[family] if is_guided else {})}
    if family == "sd15" and not is_guided:
        call["guidance_scale"] = 1.0
    sizes: list[int] = []
    denoiser = pipe.transformer if family == "flux" else pipe.unet
    argument = "hidden_states" if family == "flux" else "sample"
    forward = type(denoiser).forward

    @functools.wraps(forward)
    def measured(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(signature(forward).bind(*args, **kwargs).arguments[argument]))
        return forward(*args, **kwargs)

    denoiser.forward = MethodType(measured, denoiser)
    sampler = TTSnap(contrast, num_candidates=5, max_rows=max_rows)
    sampler(pipe, PROMPT, **call)
    assert sampler.plan(pipe, 1, **call).peak_rows == max(sizes)


UNEVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "sdxl stops early": ("sdxl", {"denoising_end": 0.5, "output_type": "latent"}),
    "z-image stops guiding": ("z-image", {"cfg_truncation": 0.5}),
    "sd3 skips layers": ("sd3", {"skip_guidance_layers": [1]}),
}


@pytest.mark.parametrize("case", UNEVEN)
def test_loops_whose_steps_are_not_alike_are_refused(case: str) -> None:
    family, extra = UNEVEN[case]
    pipe, call_kwargs = build(family)
    with (
        pytest.raises(UnsupportedPipelineError, match=next(iter(extra))),
        gensift.attach(TTSnap(contrast), pipe, prompts=[PROMPT]),
    ):
        pipe(**call_kwargs(range(6), num_inference_steps=20, **extra))


@pytest.mark.parametrize("search", [TTSnap, BestOfN])
@pytest.mark.parametrize(
    ("outputs", "call"),
    [(1, CALL), (3, {**CALL, "negative_prompt": "", "true_cfg_scale": 2.0})],
)
def test_a_budget_in_nfe_buys_the_largest_search_that_fits(
    search: type[DiffusionSearch], outputs: int, call: dict[str, Any]
) -> None:
    pipe = speaking("flux")

    def planned(**options: Any) -> Plan:
        return search(contrast, num_outputs=outputs, **options).plan(pipe, 1, **call)

    costs = {count: planned(num_candidates=count).cost.nfe for count in range(outputs, 30)}
    for budget in (costs[outputs], 59.5, 60, 61, 147):
        affordable = [count for count, cost in costs.items() if cost <= budget]
        if not affordable:
            with pytest.raises(ConfigError, match=f"{budget:g} is below the cost of {outputs} "):
                planned(budget=budget)
            continue
        assert max(affordable) < 29
        plan = planned(budget=budget)
        assert plan.num_candidates == max(affordable)
        assert plan.cost.nfe == costs[plan.num_candidates] <= budget
    with pytest.raises(ConfigError, match=f"is below the cost of {outputs} "):
        planned(budget=costs[outputs] - 1)


def test_a_budget_holds_for_each_prompt() -> None:
    pipe, sampler = speaking("flux"), TTSnap(contrast, budget=60)
    one, two = (sampler.plan(pipe, prompts, **CALL) for prompts in (1, 2))
    assert one.num_candidates == two.num_candidates
    output = sampler(pipe, ["a", "b"], **CALL)
    assert output.cost.nfe == two.cost.nfe == 2 * one.cost.nfe <= 2 * 60


def test_a_call_with_too_small_a_budget_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = speaking("flux")
    monkeypatch.setattr(pipe.transformer, "forward", None)
    with pytest.raises(ConfigError, match="raise the budget, or lower the number of steps"):
        TTSnap(contrast, budget=STEPS - 1)(pipe, PROMPT, **CALL)


@pytest.mark.parametrize("search", [TTSnap, BestOfN])
def test_a_budget_in_flops_buys_the_largest_search_that_fits(
    search: type[DiffusionSearch],
) -> None:
    pipe = speaking("flux")
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), {"prompt": [PROMPT], **PRICED})
    unit_costs = measure_unit_costs(call, contrast, "flops")
    assert unit_costs.step > 0 and unit_costs.scoring > 0

    def flops_of(count: int) -> float:
        plan = search(contrast, num_candidates=count).plan(pipe, 1, **PRICED)
        return search_cost(plan.stages, unit_costs)

    for budget, expected in ((flops_of(5), 5), (flops_of(5) - 1, 4)):
        assert flops_of(4) < flops_of(5) < flops_of(6)
        sampler = search(contrast, budget=budget, budget_unit="flops")
        assert sampler.plan(pipe, 1, **PRICED).num_candidates == expected


def test_a_budget_in_flops_counts_what_the_reward_does() -> None:
    def costly(images: Tensor, prompts: Sequence[str]) -> Tensor:
        flat = images.flatten(1)
        for _ in range(20):
            flat = flat @ torch.eye(flat.shape[1])
        return flat.std(1)

    def count(reward: Reward) -> int:
        sampler = BestOfN(reward, budget=2e8, budget_unit="flops")
        number: int = sampler.plan(speaking("flux"), 1, **PRICED).num_candidates
        return number

    assert count(costly) < count(contrast)


def test_too_small_a_budget_in_flops_is_refused() -> None:
    with pytest.raises(ConfigError, match="budget 10 is below the cost of 1 candidate"):
        TTSnap(contrast, budget=10, budget_unit="flops").plan(speaking("flux"), 1, **PRICED)


@pytest.mark.parametrize("amount", [float("inf"), float("nan"), -1.0])
def test_a_budget_that_is_no_amount_is_refused(amount: float) -> None:
    with pytest.raises(ConfigError, match="budget"):
        TTSnap(contrast, budget=amount).plan(speaking("flux"), 1, **CALL)
