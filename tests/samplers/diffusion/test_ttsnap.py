"""TTSnap against a simulation that sees every candidate at every step and prunes on paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from torch import Tensor

import gensift
from gensift.errors import ConfigError, UnknownNameError
from gensift.randomness import candidate_seeds
from gensift.trace import PromptTrace
from samplers.diffusion.attach import PipelineCall
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.callback import observe_steps
from samplers.diffusion.observer import StepEvent
from samplers.diffusion.prices import measure_prices
from samplers.diffusion.schedule import search_cost
from samplers.diffusion.search import DiffusionSearch, Plan, SearchConfig
from samplers.diffusion.ttsnap import TTSnap, TTSnapConfig
from samplers.output import SamplerOutput
from samplers.registry import SAMPLERS

PROMPT = "a red circle"
STEPS = 10
CALL = {**SIZE, "num_inference_steps": STEPS}
PRICED: dict[str, Any] = {**SIZE, "num_inference_steps": 6}
TOLERANCE = 2e-5  # pictures in [0, 1]; batch-size rounding of random networks

Reward = Callable[[Tensor, Sequence[str]], Tensor]


def contrast(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.flatten(1).std(1)


def redness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


# --- the simulation -------------------------------------------------------------------------------


def record(pipe: Any, seeds: Sequence[int]) -> list[Tensor]:
    """Pictures of what each candidate would be at each step, and last the finished ones."""
    estimates: list[Tensor] = []
    arguments = {
        "num_images_per_prompt": len(seeds),
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "pt",
    }
    with observe_steps(pipe, lambda event: estimates.append(clean_latents(pipe, event))):
        finished = pipe(PROMPT, **CALL, **arguments).images
    return [decoded(pipe, latents) for latents in estimates] + [finished]


def clean_latents(pipe: Any, event: StepEvent) -> Tensor:
    """x0 by the textbook: flow matching for FLUX, the variance-preserving formula for SD."""
    if hasattr(pipe, "transformer"):
        sigma = pipe.scheduler.sigmas[event.step_index]
        return event.sample - sigma * event.model_output
    alpha = pipe.scheduler.alphas_cumprod[int(event.timestep)]
    return (event.sample - (1 - alpha).sqrt() * event.model_output) / alpha.sqrt()


@torch.no_grad()
def decoded(pipe: Any, latents: Tensor) -> Tensor:
    """Pictures by the pipeline's own parts, as at the end of its call."""
    if hasattr(pipe, "transformer"):
        latents = pipe._unpack_latents(latents, 16, 16, pipe.vae_scale_factor)
    config = pipe.vae.config
    shifted = latents / config.scaling_factor + (config.shift_factor or 0.0)
    images: Tensor = pipe.image_processor.postprocess(
        pipe.vae.decode(shifted).sample, output_type="pt"
    )
    return images


@dataclass
class Round:
    step_index: int
    alive: list[int]
    scores: dict[str, list[float]]
    combined: list[float]
    kept: list[int]


def simulate(
    pictures: list[Tensor],
    rewards: Mapping[str, Reward],
    plan: Mapping[int, float],
    num_outputs: int = 1,
) -> list[Round]:
    """Prune after the steps of `plan`, {step index: share kept}, and judge what is finished."""
    rounds: list[Round] = []
    alive = list(range(len(pictures[0])))
    last = len(pictures) - 2
    for step in [*sorted(plan), last]:
        seen = pictures[-1] if step == last else pictures[step]
        scores = {name: reward(seen[alive], []).tolist() for name, reward in rewards.items()}
        combined = rank_sums(scores) if len(scores) > 1 else next(iter(scores.values()))
        count = num_outputs
        if step != last:
            count = max(1, round(len(alive) * plan[step]), num_outputs)
        ranked = sorted(range(len(alive)), key=lambda place: (-combined[place], place))
        kept = sorted(alive[place] for place in ranked[:count])
        rounds.append(Round(step, alive, scores, combined, kept))
        alive = kept
    return rounds


def rank_sums(scores: Mapping[str, list[float]]) -> list[float]:
    totals = [0.0] * len(next(iter(scores.values())))
    for column in scores.values():
        for place, score in enumerate(column):
            totals[place] += sum(other < score for other in column)
    return totals


def assert_agrees(trace: PromptTrace, rounds: list[Round]) -> None:
    assert [stage.step_index for stage in trace.stages] == [r.step_index for r in rounds]
    for stage, expected in zip(trace.stages, rounds, strict=True):
        assert stage.alive == tuple(expected.alive)
        assert stage.kept == tuple(expected.kept)
        assert stage.combined == pytest.approx(expected.combined, abs=TOLERANCE)
        assert stage.scores.keys() == expected.scores.keys()
        for name, values in expected.scores.items():
            assert stage.scores[name] == pytest.approx(values, abs=TOLERANCE)
    assert [stage.is_final for stage in trace.stages] == [False] * (len(rounds) - 1) + [True]
    best = rounds[-1].combined.index(max(rounds[-1].combined))
    assert trace.winner == rounds[-1].alive[best]


CASES: dict[str, tuple[str, dict[str, Any], dict[int, float], int]] = {
    "defaults": ("flux", {}, {3: 0.65, 4: 0.65, 6: 0.5}, 16),
    # 0.6 of the 11 calls that PNDM makes for 10 steps
    "defaults, sd15": ("sd15", {}, {3: 0.65, 4: 0.65, 7: 0.5}, 9),
    "early and hard": (
        "flux",
        {"checkpoints": (0.1, 0.3, 0.6), "keep": (0.4, 0.4, 0.5)},
        {1: 0.4, 3: 0.4, 6: 0.5},
        16,
    ),
    "halves of odd numbers": (
        "flux",
        {"checkpoints": (0.2, 0.7), "keep": (0.5, 0.5)},
        {2: 0.5, 7: 0.5},
        7,
    ),
    "three outputs": (
        "flux",
        {"checkpoints": (0.2, 0.5), "keep": (0.5, 0.1), "num_outputs": 3},
        {2: 0.5, 5: 0.1},
        8,
    ),
    "one candidate": ("flux", {}, {3: 0.65, 4: 0.65, 6: 0.5}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_it_prunes_as_the_simulation_does(case: str) -> None:
    family, options, plan, count = CASES[case]
    pipe, seeds = speaking(family), candidate_seeds(0, 0, count)
    outputs = options.get("num_outputs", 1)
    pictures = record(pipe, seeds)
    assert len(pictures) == STEPS + (2 if family == "sd15" else 1)  # PNDM makes one call more
    rounds = simulate(pictures, {"contrast": contrast}, plan, outputs)
    search = TTSnap(contrast, num_candidates=count, **options)
    output = search(pipe, PROMPT, output_type="pt", **CALL)
    (trace,) = output.trace.prompts
    assert_agrees(trace, rounds)
    assert output.seeds[0] == seeds[trace.winner]
    winner = pictures[-1][[seeds.index(seed) for seed in output.seeds]]
    assert float((output.results[0].samples - winner).abs().max()) <= TOLERANCE


def test_several_rewards_prune_by_rank_sum_at_every_checkpoint() -> None:
    pipe, seeds = speaking("flux"), candidate_seeds(0, 0, 12)
    rewards = {"contrast": contrast, "redness": redness}
    plan = {3: 0.65, 4: 0.65, 6: 0.5}
    rounds = simulate(record(pipe, seeds), rewards, plan)
    alone = simulate(record(pipe, seeds), {"contrast": contrast}, plan)
    assert rounds[0].kept != alone[0].kept
    output = TTSnap(rewards, num_candidates=12)(pipe, PROMPT, output_type="pt", **CALL)
    assert_agrees(output.trace.prompts[0], rounds)


@pytest.mark.parametrize("max_rows", [1, 3])
@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_micro_batches_change_nothing_but_the_number_of_calls(family: str, max_rows: int) -> None:
    pipe = speaking(family)
    whole = TTSnap(contrast, num_candidates=8)(pipe, PROMPT, output_type="pt", **CALL)
    small = TTSnap(contrast, num_candidates=8, max_rows=max_rows)(
        pipe, PROMPT, output_type="pt", **CALL
    )
    assert small.seeds == whole.seeds
    assert [stage.kept for stage in small.trace.prompts[0].stages] == [
        stage.kept for stage in whole.trace.prompts[0].stages
    ]
    difference = (small.results[0].samples - whole.results[0].samples).abs().max()
    assert float(difference) <= TOLERANCE
    assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}
    assert small.cost.denoiser_calls >= small.cost.nfe / max_rows


def test_keeping_all_is_best_of_n_bit_for_bit() -> None:
    pipe = speaking("flux")
    keep_all = TTSnap(contrast, num_candidates=6, keep=(1.0, 1.0, 1.0), num_outputs=6)
    best_of_n = BestOfN(contrast, num_candidates=6, num_outputs=6)
    found, expected = (s(pipe, PROMPT, output_type="pt", **CALL) for s in (keep_all, best_of_n))
    assert found.seeds == expected.seeds
    assert found.rewards == expected.rewards
    assert torch.equal(found.results[0].samples, expected.results[0].samples)
    assert found.cost.nfe == expected.cost.nfe == 6 * STEPS


def test_equal_scores_keep_the_lower_candidates() -> None:
    def indifferent(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))

    output = TTSnap(indifferent, num_candidates=10)(speaking("flux"), PROMPT, **CALL)
    stages = output.trace.prompts[0].stages
    assert [stage.kept for stage in stages] == [tuple(range(len(stage.kept))) for stage in stages]
    assert output.seeds == candidate_seeds(0, 0, 1)


# --- cost -----------------------------------------------------------------------------------------


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


UNEVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "sdxl stops early": ("sdxl", {"denoising_end": 0.5, "output_type": "latent"}),
    "z-image stops guiding": ("z-image", {"cfg_truncation": 0.5}),
    "sd3 skips layers": ("sd3", {"skip_guidance_layers": [1]}),
}


def uneven_run(case: str, search: DiffusionSearch) -> tuple[Plan, SamplerOutput]:
    """Plan and output of a search with 20 steps of which not all are alike."""
    family, extra = UNEVEN[case]
    pipe, call_kwargs = build(family)
    kwargs = call_kwargs(range(6), num_inference_steps=20, **extra)
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), kwargs, [PROMPT])
    with gensift.attach(search, pipe, prompts=[PROMPT]) as run:
        pipe(**kwargs)
    return search.plan_call(call, 6), run.output


@pytest.mark.parametrize("case", UNEVEN)
def test_planned_cost_is_spent_cost_where_steps_are_not_alike(case: str) -> None:
    planned, output = uneven_run(case, BestOfN(contrast))
    assert output.cost.difference(planned.cost) == {}


def test_checkpoints_are_shares_of_the_steps_that_are_made() -> None:
    _, output = uneven_run("sdxl stops early", TTSnap(contrast))
    stages = output.trace.prompts[0].stages
    assert {stage.num_inference_steps for stage in stages} == {10}
    assert [stage.step_index for stage in stages] == [3, 4, 6, 9]


@pytest.mark.parametrize("search", [TTSnap, BestOfN])
@pytest.mark.parametrize("budget", [10, 59.5, 60, 61, 147])
@pytest.mark.parametrize(
    ("outputs", "call"),
    [(1, CALL), (3, {**CALL, "negative_prompt": "", "true_cfg_scale": 2.0})],
)
def test_a_budget_in_nfe_buys_the_largest_search_that_fits(
    search: type[DiffusionSearch], budget: float, outputs: int, call: dict[str, Any]
) -> None:
    pipe = speaking("flux")

    def nfe_of(count: int) -> int:
        sized = search(contrast, num_candidates=count, num_outputs=outputs)
        nfe: int = sized.plan(pipe, 1, **call).cost.nfe
        return nfe

    costs = {count: nfe_of(count) for count in range(outputs, 30)}
    affordable = [count for count, cost in costs.items() if cost <= budget]
    sampler = search(contrast, budget=budget, num_outputs=outputs)
    if not affordable:
        with pytest.raises(ConfigError, match=rf"budget {budget:g} is below the cost of {outputs}"):
            sampler.plan(pipe, 1, **call)
        return
    assert max(affordable) < 29
    plan = sampler.plan(pipe, 1, **call)
    assert plan.num_candidates == max(affordable)
    assert plan.cost.nfe == costs[plan.num_candidates] <= budget


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
    prices = measure_prices(call, contrast, "flops")
    assert prices.step > 0 and prices.verdict > 0

    def flops_of(count: int) -> float:
        plan = search(contrast, num_candidates=count).plan(pipe, 1, **PRICED)
        return search_cost(plan.stages, prices)

    for budget in (flops_of(5), flops_of(5) - 1, 1.3 * flops_of(7)):
        sampler = search(contrast, budget=budget, budget_unit="flops")
        found = {sampler.plan(pipe, 1, **PRICED).num_candidates for _ in range(2)}
        assert found == {max(n for n in range(1, 20) if flops_of(n) <= budget)}


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


# --- options --------------------------------------------------------------------------------------


def test_all_faults_of_the_options_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TTSnap(contrast, checkpoints=(0.6, 0.3), keep=(0.5,), num_candidates=2, num_outputs=3)
    assert len(caught.value.problems) == 3
    for expected in ("`num_outputs` 3 exceeds", "but 1 keep ratios", "must ascend strictly"):
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kepe": (0.5,)}, "Nearest: 'keep'"),
        ({"keep": (0.5, 0.5, 1.5)}, r"must lie in \(0, 1\]"),
        ({"num_candidates": 4, "budget": 100.0}, "both given; give one"),
        ({"config": TTSnapConfig(), "num_candidates": 4}, "give one of them"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"budget_unit": "hours"}, r"nfe \| flops \| seconds"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        TTSnap(contrast, **options)


def test_it_is_registered_with_its_options() -> None:
    assert SAMPLERS.get("ttsnap") is TTSnap is gensift.TTSnap
    assert issubclass(TTSnap.config_class, SearchConfig)
    with pytest.raises(UnknownNameError, match="Nearest: 'ttsnap'"):
        SAMPLERS.get("ttsnip")
