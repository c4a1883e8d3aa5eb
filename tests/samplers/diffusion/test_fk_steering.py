"""FK steering in whole pipelines: off it is the plain search, on it does what the weights say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
from helpers.gated_runs import attached_state
from helpers.resampling import SOLVERS
from helpers.searches import PROMPT, close, contrast, generators, redness
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from torch import Tensor

import gensift
from gensift.errors import ConfigError, RewardError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds, derived_seed
from gensift.sifting_tree import LINK_LAYER, WINNER_LINK_LAYER, draw
from samplers.diffusion.attach import attach
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.fk_steering import FKSteering
from samplers.diffusion.flow_sde import flow_sde
from samplers.diffusion.particles import ParticleWeights
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.svdd import SVDD
from samplers.drawing import in_place, systematic
from samplers.registry import SAMPLERS

COUNT = 6
STRENGTH = 5000.0  # scores of random networks hardly differ
STRONG = {"num_candidates": COUNT, "strength": STRENGTH}
SEARCHES: dict[str, tuple[type[DiffusionSearch], dict[str, Any]]] = {
    "fk-steering": (FKSteering, STRONG),
    "svdd": (SVDD, {"num_candidates": COUNT, "children": 3}),
}


def parents_of(output: Any, prompt: int = 0) -> list[tuple[int, ...] | None]:
    return [stage.parents for stage in output.trace.prompts[prompt].stages]


def was_copied(output: Any) -> bool:
    return any(p is not None and p != tuple(range(len(p))) for p in parents_of(output))


@pytest.mark.parametrize("off", ["strength 0", "equal rewards"])
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "flow SDE"])
def test_off_it_is_best_of_n_with_the_same_solver_bit_for_bit(name: str, off: str) -> None:
    solver = SOLVERS[name]
    pipe, state = solver.pipe(), torch.get_rng_state()

    def equal(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(images))

    reward = contrast if off == "strength 0" else equal
    options = {"strength": 0.0} if off == "strength 0" else {"ess_threshold": 1.0}
    counts = {"num_candidates": COUNT, "num_outputs": COUNT}
    found = FKSteering(reward, **counts, **options)(pipe, PROMPT, **solver.arguments)
    expected = BestOfN(reward, **counts)(pipe, PROMPT, **solver.arguments)
    assert not was_copied(found)
    assert found.seeds == expected.seeds
    assert torch.equal(found.results[0].samples, expected.results[0].samples)
    assert torch.equal(torch.get_rng_state(), state)


def test_off_in_a_flow_model_it_is_the_sde_alone() -> None:
    solver, seeds = SOLVERS["flow SDE"], candidate_seeds(0, 0, COUNT)
    counts = {"num_candidates": COUNT, "num_outputs": COUNT}
    search = FKSteering(contrast, strength=0.0, sde_scale=1.3, **counts)
    found = search(solver.pipe(), PROMPT, **solver.arguments)
    pipe = solver.pipe()
    with flow_sde(pipe.scheduler, seeds, 1.3):
        expected = BestOfN(contrast, **counts)(pipe, PROMPT, **solver.arguments)
    assert found.seeds == expected.seeds
    assert torch.equal(found.results[0].samples, expected.results[0].samples)


@pytest.mark.parametrize("potential", ["max", "sum", "diff"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_trace_is_what_the_weights_and_the_stream_of_the_seeds_give(
    name: str, potential: Any
) -> None:
    solver = SOLVERS[name]
    search = FKSteering(contrast, potential=potential, **STRONG)
    output = search(solver.pipe(), PROMPT, **solver.arguments)
    *early, final = output.trace.prompts[0].stages
    assert [stage.step_index for stage in early] == [2, 3, 5, 6]  # 0.2, 0.4, 0.6, 0.8 of 8 steps
    weights = ParticleWeights(COUNT, potential, STRENGTH)
    seed = derived_seed(candidate_seeds(0, 0, COUNT), "fk-steering")
    stream = torch.Generator().manual_seed(seed)
    for stage in early:
        weights.update(stage.combined)
        expected = list(range(COUNT))
        if weights.must_resample(0.5):
            expected = in_place(systematic(weights.log_weights, stream))
            weights.resample(expected)
        assert stage.parents == tuple(expected)
        assert stage.kept == tuple(sorted(set(expected)))
        assert stage.alive == tuple(range(COUNT))
    assert was_copied(output)
    assert final.alive == tuple(range(COUNT)) and final.parents is None
    best = max(range(COUNT), key=lambda c: final.combined[c])
    assert output.rewards == [final.combined[best]]
    assert output.seeds == [candidate_seeds(0, 0, COUNT)[best]]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_copy_starts_from_its_parents_latents_and_parts(name: str) -> None:
    """Until the first copies all is plain; a copy's next estimate is near its parent's."""
    solver = SOLVERS[name]
    common = {"num_candidates": COUNT, "num_outputs": COUNT, "checkpoints": (0.75,)}
    found = FKSteering(contrast, strength=1e7, **common)(solver.pipe(), PROMPT, **solver.arguments)
    plain = FKSteering(contrast, strength=0.0, **common)(solver.pipe(), PROMPT, **solver.arguments)
    ours, theirs = (o.trace.prompts[0].stages for o in (found, plain))
    assert ours[0].combined == theirs[0].combined
    best = max(range(COUNT), key=lambda c: ours[0].combined[c])
    assert ours[0].parents == (best,) * COUNT
    # The parent goes its own way with its own noise, whoever was copied from it.
    assert ours[1].combined[best] == pytest.approx(theirs[1].combined[best], abs=1e-5)
    assert len(set(ours[1].combined)) == COUNT


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("sampler", SEARCHES)
def test_planned_cost_is_spent_cost(sampler: str, name: str) -> None:
    cls, options = SEARCHES[sampler]
    solver, search = SOLVERS[name], cls(contrast, **options)
    planned = search.plan(solver.pipe(), 1, **solver.arguments)
    output = search(solver.pipe(), PROMPT, **solver.arguments)
    assert output.cost.difference(planned.cost) == {}
    assert output.cost.nfe == COUNT * planned.guidance_rows * planned.num_steps
    assert output.cost.reward_calls["contrast"] == COUNT * len(output.trace.prompts[0].stages)
    assert [(s.alive, s.kept) for s in planned.stages[:-1]] == [(COUNT, COUNT)] * (
        len(planned.stages) - 1
    )


@pytest.mark.parametrize("max_rows", [1, 4])
@pytest.mark.parametrize("name", ["flow SDE", "SDE-DPM++"])
@pytest.mark.parametrize("sampler", SEARCHES)
def test_micro_batches_choose_the_same_winner(sampler: str, name: str, max_rows: int) -> None:
    cls, options = SEARCHES[sampler]
    solver = SOLVERS[name]
    whole = cls(contrast, **options)(solver.pipe(), PROMPT, **solver.arguments)
    small = cls(contrast, max_rows=max_rows, **options)(solver.pipe(), PROMPT, **solver.arguments)
    assert was_copied(whole)
    assert parents_of(small) == parents_of(whole) and small.seeds == whole.seeds
    assert close(small.results[0].samples, whole.results[0].samples)


@pytest.mark.parametrize("sampler", SEARCHES)
@pytest.mark.parametrize("name", ["flow SDE", "Euler ancestral"])
def test_prompts_of_one_call_are_resampled_apart(sampler: str, name: str) -> None:
    cls, options = SEARCHES[sampler]
    solver, prompts = SOLVERS[name], ["a red circle", "two blue squares"]
    seeds = [candidate_seeds(0, index, COUNT) for index in range(2)]
    search = cls(contrast, **options)
    together = search(solver.pipe(), prompts, seeds=seeds, **solver.arguments)
    for index, prompt in enumerate(prompts):
        alone = search(solver.pipe(), prompt, seeds=[seeds[index]], **solver.arguments)
        assert parents_of(together, index) == parents_of(alone)
        assert together.seeds[index] == alone.seeds[0]
        assert close(together.results[index].samples, alone.results[0].samples)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("sampler", SEARCHES)
@pytest.mark.parametrize("name", ["flow SDE", "SDE-DPM++"])
def test_an_error_inside_leaves_the_pipeline_as_it_was(
    name: str, sampler: str, failure: type[BaseException]
) -> None:
    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise failure

    cls, options = SEARCHES[sampler]
    solver = SOLVERS[name]
    pipe = solver.pipe()
    call = {**solver.arguments, "generator": generators([1])}
    before, state = pipe(PROMPT, **call).images, attached_state(pipe)
    with pytest.raises(failure):
        cls(failing, **options)(pipe, PROMPT, **solver.arguments)
    assert attached_state(pipe)[0] is state[0] is None
    assert [hooks for _, hooks in attached_state(pipe)[1:]] == [[]]
    assert torch.equal(pipe(PROMPT, **call | {"generator": generators([1])}).images, before)


@pytest.mark.parametrize("family", ["sd3", "flux-true-cfg", "qwen-image", "z-image", "sdxl"])
@pytest.mark.parametrize("sampler", SEARCHES)
def test_other_families_take_part(sampler: str, family: str) -> None:
    cls, options = SEARCHES[sampler]
    search = cls(contrast, **options)
    pipe, call_kwargs = build(family, "euler-ancestral" if family == "sdxl" else None)
    kwargs = call_kwargs(list(range(COUNT)))
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), kwargs, ["a"])
    planned = search.plan_call(call, COUNT)
    with attach(search, pipe, prompts=["a"]) as run:
        images = pipe(**kwargs, output_type="pt", return_dict=False)[0]
    assert len(images) == 1 and torch.isfinite(images).all()
    assert was_copied(run.output)
    assert run.output.cost.difference(planned.cost) == {}


REFUSED: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], str]] = {
    "Euler": ("sd15", "euler", {}, {}, "EulerDiscreteScheduler is deterministic"),
    "DPM++": ("sd15", "dpm++", {}, {}, r"\(algorithm_type='dpmsolver\+\+'\) is deterministic"),
    "DDIM without eta": ("sd15", "ddim", {}, {}, r"DDIMScheduler with eta=1\.0"),
    "flow DPM++": ("flux", "flow-dpm++-mu", {}, {}, r"FlowMatchEulerDiscreteScheduler\.from_"),
    "the ODE": ("flux", "flow-euler", {}, {"sde": "none"}, "Set `sde` to auto or flow"),
    "an SDE for SD": ("sd15", "euler-ancestral", {}, {"sde": "flow"}, "`sde=flow` adds noise"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("sampler", SEARCHES)
def test_solvers_without_random_steps_are_refused_before_anything_runs(
    sampler: str, case: str
) -> None:
    cls, options = SEARCHES[sampler]
    family, scheduler, call, more, expected = REFUSED[case]
    pipe, search = speaking(family, scheduler), cls(contrast, **options, **more)
    with pytest.raises(UnsupportedPipelineError, match=expected):
        search.plan(pipe, 1, **SIZE, **call)
    with pytest.raises(UnsupportedPipelineError, match=expected):
        search(pipe, PROMPT, **SIZE, **call)


def test_noise_that_no_seed_decides_is_refused() -> None:
    pipe = speaking("flux")
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(UnsupportedPipelineError, match="gives its scheduler no generator"):
        FKSteering(contrast, **STRONG)(pipe, PROMPT, **SIZE)


@pytest.mark.parametrize("sampler", SEARCHES)
def test_a_candidate_without_a_finite_score_has_no_heirs(sampler: str) -> None:
    def holed(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = contrast(images, prompts)
        if len(images) == COUNT:
            scores[1] = math.nan
        return scores

    cls, options = SEARCHES[sampler]
    solver = SOLVERS["flow SDE"]
    output = cls(holed, **options)(solver.pipe(), PROMPT, **solver.arguments)
    for stage in output.trace.prompts[0].stages:
        assert 1 not in stage.kept
    with pytest.raises(RewardError, match="no finite score"):
        cls(lambda images, prompts: torch.full((len(images),), math.nan), **options)(
            solver.pipe(), PROMPT, **solver.arguments
        )


def test_several_rewards_and_outputs_take_part() -> None:
    solver = SOLVERS["flow SDE"]
    rewards = {"contrast": contrast, "redness": redness}
    search = FKSteering(rewards, num_candidates=COUNT, num_outputs=2, resampling="multinomial")
    output = search(solver.pipe(), PROMPT, **solver.arguments)
    assert len(output.images) == len(set(output.seeds)) == 2
    assert was_copied(output)


def test_without_a_reward_nothing_is_chosen() -> None:
    solver = SOLVERS["flow SDE"]
    output = FKSteering(None, num_candidates=3)(solver.pipe(), PROMPT, **solver.arguments)
    assert output.seeds == candidate_seeds(0, 0, 3)


def test_the_trace_survives_a_round_trip_and_is_drawn() -> None:
    solver = SOLVERS["flow SDE"]
    search = FKSteering(contrast, keep_previews=True, **STRONG)
    output = search(solver.pipe(), PROMPT, **solver.arguments)
    assert gensift.Trace.from_json(output.trace.to_json()) == output.trace
    marks = draw(output.trace.prompts, ()).marks
    # One line into every place of every stage but the first.
    assert sum(mark.layer in (LINK_LAYER, WINNER_LINK_LAYER) for mark in marks) >= COUNT * 4


def test_a_budget_buys_whole_runs() -> None:
    plan = FKSteering(contrast, budget=100).plan(speaking("flux"), 1, **SIZE)
    assert (plan.num_candidates, plan.cost.nfe) == (100 // SIZE["num_inference_steps"], 96)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"potential": "min"}, r"max \| sum \| diff|'max'"),
        ({"strength": -1.0}, "strength"),
        ({"ess_threshold": 1.5}, "ess_threshold"),
        ({"checkpoints": (0.5, 0.2)}, "must ascend strictly"),
        ({"sde_scale": 0.0}, "copies would stay alike"),
        ({"sde": "cosine"}, "sde"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        FKSteering(contrast, **options)


def test_they_are_registered_and_say_that_a_seed_is_not_all() -> None:
    assert SAMPLERS.get("fk-steering") is FKSteering is gensift.FKSteering
    assert SAMPLERS.get("svdd") is SVDD is gensift.SVDD
    assert BestOfN.is_reproducible and not FKSteering.is_reproducible and not SVDD.is_reproducible
