"""Zero-order search against best-of-N, and against a climb written down a second time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, close, contrast, pictures, redness, sifted
from helpers.speaking_pipelines import SIZE, speaking
from helpers.tiny_pipelines import build
from helpers.transparent_pipelines import picture_of, transparent
from torch import Tensor

import gensift
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.randomness import candidate_seed, candidate_seeds
from gensift.trace import Trace
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.zero_order import ZeroOrder
from samplers.registry import SAMPLERS

FAMILIES = [("flux", None), ("sd15", "ddim"), ("sdxl", "euler")]
TEN = {"height": 16, "width": 16, "num_inference_steps": 10}


def found(search: Any, pipe: Any, prompts: Any = PROMPT, **call: Any) -> Any:
    return search(pipe, prompts, output_type="pt", **{**SIZE, **call})


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_the_first_round_alone_is_best_of_n_bit_for_bit(family: str, scheduler: str | None) -> None:
    pipe = speaking(family, scheduler)
    options = {"num_candidates": 5, "num_outputs": 2}
    state = found(ZeroOrder(contrast, rounds=0, **options), pipe)
    best = found(BestOfN(contrast, **options), pipe)
    assert torch.equal(state.results[0].samples, best.results[0].samples)
    assert (state.seeds, state.rewards) == (best.seeds, best.rewards)
    assert state.results[0].mean_reward == pytest.approx(best.results[0].mean_reward)
    assert state.cost.same_work(best.cost)
    longer = found(ZeroOrder(contrast, rounds=2, **options), pipe)
    (first, plain) = longer.trace.prompts[0].stages[0], best.trace.prompts[0].stages[0]
    assert first.combined == plain.combined and first.round == 0


def target() -> Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(99)) * 0.1 + 0.45


def nearness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A quadratic function of the initial noise of a transparent pipeline."""
    return -((images - target()) ** 2).sum((1, 2, 3))


def climb_by_hand(
    pipe: Any, seeds: list[int], rounds: int, size: int, cosine: float
) -> list[float]:
    """The best reward after each round, noises and pictures by formula."""

    def draw(seed: int) -> Tensor:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        packed: Tensor = pipe._pack_latents(noise, 1, 4, 8, 8)
        return packed[0]

    def reward(noise: Tensor) -> float:
        return float(nearness(picture_of(pipe, noise[None]), []))

    pivot = max((draw(seed) for seed in seeds), key=reward)
    best = [reward(pivot)]
    for number in range(1, rounds + 1):
        around = []
        for place in range(size):
            generator = torch.Generator().manual_seed(candidate_seed(seeds[0], number, place))
            direction = torch.randn(pivot.shape, generator=generator)
            direction -= (direction * pivot).sum() / (pivot**2).sum() * pivot
            sine = math.sqrt(1 - cosine**2)
            around.append(cosine * pivot + sine * pivot.norm() * direction / direction.norm())
        pivot = max([pivot, *around], key=reward)
        best.append(reward(pivot))
    return best


def test_a_quadratic_of_the_noise_is_climbed_as_by_hand() -> None:
    pipe = transparent()
    search = ZeroOrder(nearness, num_candidates=3, rounds=6, neighbours=5, similarity=0.8)
    output = found(search, pipe)
    stages = output.trace.prompts[0].stages
    expected = climb_by_hand(pipe, candidate_seeds(0, 0, 3), 6, 5, 0.8)
    assert [max(stage.combined) for stage in stages] == pytest.approx(expected, rel=1e-4)
    assert expected[-1] > expected[0]
    assert output.rewards == pytest.approx(expected[-1:], rel=1e-4)


@pytest.mark.parametrize("restart", [False, True])
def test_rounds_never_lower_the_reward_and_the_winner_is_the_best_of_all(restart: bool) -> None:
    search = ZeroOrder(contrast, num_candidates=3, rounds=5, neighbours=2, restart=restart)
    output = found(search, speaking("flux"))
    (trace,) = output.trace.prompts
    best = [max(stage.combined) for stage in trace.stages]
    assert all(later >= earlier for earlier, later in pairwise(best))
    assert output.rewards == [best[-1]] == [max(s for t in trace.stages for s in t.combined)]
    assert output.seeds == [trace.seeds[trace.winner]]
    assert float(contrast(output.results[0].samples, [])) == pytest.approx(best[-1], abs=1e-5)


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
@pytest.mark.parametrize("restart", [False, True])
def test_the_winners_latents_give_its_picture_in_a_plain_call(
    family: str, scheduler: str | None, restart: bool
) -> None:
    pipe = speaking(family, scheduler)
    search = ZeroOrder(contrast, num_candidates=2, rounds=4, neighbours=3, restart=restart)
    output = found(search, pipe, ["a", PROMPT])
    for index, trace in enumerate(Trace.from_json(output.trace.to_json()).prompts):
        assert len(trace.ancestry(trace.winner)) > 1
        latents = search.initial_latents(pipe, trace, **SIZE)
        again = pictures(pipe, trace.prompt, latents=latents)
        assert close(again, output.results[index].samples)


def test_a_round_without_improvement_is_followed_by_fresh_noises() -> None:
    def indifferent(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))

    pipe = speaking("flux")
    for restart, expected in ((True, [0, None, 4]), (False, [0, 0, 0])):
        search = ZeroOrder(indifferent, num_candidates=2, rounds=3, neighbours=2, restart=restart)
        output = found(search, pipe)
        (trace,) = output.trace.prompts
        assert list(trace.parents) == [None] * 2 + [parent for parent in expected for _ in range(2)]
        assert output.cost.difference(search.plan(pipe, **SIZE).cost) == {}
        assert trace.winner == 0
    fresh = search.initial_latents(pipe, trace, candidate=1, **SIZE)
    assert close(
        pictures(pipe, latents=fresh),
        pictures(pipe, generator=torch.Generator().manual_seed(trace.seeds[1])),
    )


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_planned_cost_is_spent_cost(family: str, scheduler: str | None, outputs: int) -> None:
    pipe = speaking(family, scheduler)
    rewards = {"contrast": contrast, "redness": redness}
    search = ZeroOrder(rewards, num_candidates=4, num_outputs=outputs, rounds=3, neighbours=2)
    planned = search.plan(pipe, 2, **SIZE)
    output = found(search, pipe, ["a", "b"])
    assert output.cost.difference(planned.cost) == {}
    guidance = planned.guidance_rows
    assert guidance == (1 if family == "flux" else 2)
    assert planned.cost.nfe == 2 * guidance * 6 * (4 + 3 * 2)
    assert [stage.round for stage in planned.stages] == [0, 1, 2, 3]
    assert [len(result.samples) for result in output.results] == [outputs] * 2
    assert all(list(r.rewards) == sorted(r.rewards, reverse=True) for r in output.results)


def test_a_budget_buys_the_largest_first_round_that_fits() -> None:
    pipe = speaking("flux")
    options: dict[str, Any] = {"rounds": 2, "neighbours": 3, "num_outputs": 2}

    def planned(**more: Any) -> Any:
        return ZeroOrder(contrast, **options, **more).plan(pipe, 1, **TEN)

    for budget in (80, 89, 90, 147):
        plan = planned(budget=budget)
        assert plan.cost.nfe <= budget < planned(num_candidates=plan.num_candidates + 1).cost.nfe
    with pytest.raises(ConfigError, match=r"budget 79 is below the cost of 2 candidate\(s\), 80"):
        planned(budget=79)


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_micro_batches_choose_the_same_winner(family: str, scheduler: str | None) -> None:
    pipe = speaking(family, scheduler)
    options: dict[str, Any] = {"num_candidates": 3, "rounds": 2, "neighbours": 3}
    whole = found(ZeroOrder(contrast, **options), pipe)
    for max_rows in (1, 2):
        small = found(ZeroOrder(contrast, max_rows=max_rows, **options), pipe)
        assert small.seeds == whole.seeds
        assert close(small.results[0].samples, whole.results[0].samples)
        assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}


def test_each_prompt_of_a_call_is_searched_as_if_it_were_alone() -> None:
    pipe, prompts = speaking("flux"), ["a red circle", "two blue squares"]
    search = ZeroOrder(contrast, num_candidates=3, rounds=3, neighbours=2, num_outputs=2)
    together = found(search, pipe, prompts)
    for index, prompt in enumerate(prompts):
        alone = found(search, pipe, prompt, seeds=[candidate_seeds(0, index, 3)])
        assert together.results[index].seeds == alone.results[0].seeds
        assert close(together.results[index].samples, alone.results[0].samples)


@pytest.mark.parametrize("output_type", ["pil", "np", "latent"])
def test_attached_calls_return_the_sifted_pictures_as_they_were_asked_for(output_type: str) -> None:
    pipe = speaking("flux")
    search = ZeroOrder(contrast, num_candidates=2, rounds=2, neighbours=2, num_outputs=2)
    with gensift.attach(search, pipe) as run:
        output = pipe(PROMPT, output_type=output_type, **SIZE)
    plain = pipe(PROMPT, output_type=output_type, **SIZE)
    assert type(output) is type(plain) and type(output.images) is type(plain.images)
    assert len(output.images) == len(run.output.images) == 2
    images, _ = sifted(search, pipe)
    assert images.shape == (2, 3, 16, 16)


def test_progress_runs_over_all_rounds() -> None:
    reports: dict[str, tuple[int, int]] = {}

    def progress(event: str, done: int, total: int) -> None:
        assert done > reports.get(event, (0, 0))[0]
        reports[event] = done, total

    search = ZeroOrder(contrast, num_candidates=4, rounds=2, neighbours=2)
    found(search, speaking("flux"), ["a", "b"], progress=progress)
    assert reports == {"denoise": (96, 96), "decode": (16, 16), "reward": (16, 16)}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [0, 1])
def test_a_failing_reward_leaves_the_pipeline_as_it_was(
    failure: type[BaseException], calls: int
) -> None:
    seen: list[int] = []

    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        if len(seen) == calls:
            raise failure("no verdict")
        seen.append(len(images))
        return contrast(images, prompts)

    pipe = speaking("flux")
    plain = pictures(pipe, generator=torch.Generator().manual_seed(3))
    before = type(pipe), set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.transformer))
    with pytest.raises(failure):
        found(ZeroOrder(failing, num_candidates=2, rounds=2), pipe)
    assert type(pipe) is before[0] and set(vars(pipe)) == before[1]
    assert set(vars(pipe.scheduler)) == before[2]
    assert set(vars(pipe.transformer)) - before[3] <= {"_diffusers_hook"}
    assert torch.equal(pictures(pipe, generator=torch.Generator().manual_seed(3)), plain)


def test_candidates_without_a_finite_score_become_no_pivots() -> None:
    def patchy(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = contrast(images, prompts)
        scores[0] = torch.nan
        return scores

    output = found(ZeroOrder(patchy, num_candidates=3, rounds=2, neighbours=2), speaking("flux"))
    (trace,) = output.trace.prompts
    assert not {0, 3, 5} & {candidate for stage in trace.stages for candidate in stage.kept}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"similarity": 1.0}, "makes each neighbour the noise itself"),
        ({"similarity": 1.5}, "similarity"),
        ({"neighbors": 2}, "Nearest: 'neighbours'"),
        ({"num_candidates": 1, "num_outputs": 2}, "exceeds"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        ZeroOrder(contrast, **options)


def test_what_cannot_be_refined_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a reward"):
        ZeroOrder(None)
    search = ZeroOrder(contrast, num_candidates=2)
    with pytest.raises(UnsupportedPipelineError, match="EulerAncestralDiscreteScheduler"):
        found(search, speaking("sd15", "euler-ancestral"))
    with pytest.raises(UnsupportedPipelineError, match="eta=1"):
        found(search, speaking("sd15", "ddim"), eta=1.0)
    pipe, call_kwargs = build("flux")
    with (
        pytest.raises(ConfigError, match="give it as text"),
        gensift.attach(search, pipe, prompts=[PROMPT]),
    ):
        pipe(**call_kwargs([1, 2]))


def test_it_is_registered_and_says_that_seeds_do_not_suffice() -> None:
    assert SAMPLERS.get("zero-order") is ZeroOrder is gensift.ZeroOrder
    assert not ZeroOrder.is_reproducible and BestOfN.is_reproducible
