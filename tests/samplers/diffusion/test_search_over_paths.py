"""Search over paths: off it is best-of-N; on, latents and costs are those of closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, close, contrast, generators, pictures, redness
from helpers.speaking_pipelines import speaking
from helpers.transparent_pipelines import transparent
from torch import Tensor

import gensift
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.randomness import candidate_seed, candidate_seeds
from gensift.trace import Trace
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.search_over_paths import SearchOverPaths
from samplers.registry import SAMPLERS

FAMILIES = [("flux", None), ("sd15", "ddim"), ("sd15", "euler"), ("sdxl", "euler")]
CALL = {"height": 16, "width": 16, "num_inference_steps": 8}


def found(search: Any, pipe: Any, prompts: Any = PROMPT, **call: Any) -> Any:
    return search(pipe, prompts, **{**CALL, "output_type": "pt", **call})


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_without_noise_and_branches_it_is_best_of_n_bit_for_bit(
    family: str, scheduler: str | None
) -> None:
    pipe = speaking(family, scheduler)
    options = {"num_candidates": 4, "num_outputs": 2}
    paths = found(SearchOverPaths(contrast, renoise=0.0, branches=1, **options), pipe)
    best = found(BestOfN(contrast, **options), pipe)
    assert torch.equal(paths.results[0].samples, best.results[0].samples)
    assert paths.rewards == best.rewards
    assert paths.cost.nfe == best.cost.nfe
    first = [paths.trace.prompts[0].ancestry(c)[0] for c in paths.trace.prompts[0].stages[-1].kept]
    assert first == list(best.trace.prompts[0].stages[-1].kept)


def test_branches_without_noise_are_copies() -> None:
    pipe = speaking("flux")
    paths = found(SearchOverPaths(contrast, num_candidates=3, renoise=0.0, branches=2), pipe)
    best = found(BestOfN(contrast, num_candidates=3), pipe)
    assert close(paths.results[0].samples, best.results[0].samples)


def test_latents_of_a_single_path_follow_the_closed_form() -> None:
    """With a velocity of 0 a leg changes nothing, so only the noise added is left."""
    pipe = transparent()
    search = SearchOverPaths(contrast, num_candidates=1, branches=1)
    output = found(search, pipe, output_type="latent")
    sigmas = pipe.scheduler.sigmas.double()  # the plain table, as the call left it
    (root,) = candidate_seeds(0, 0, 1)
    drawn = torch.randn(1, 4, 8, 8, generator=generators([root])[0])
    x = pipe._pack_latents(drawn, 1, 4, 8, 8).double()
    segments = search.segments(8)
    assert len(segments) > 2
    for number, (before, segment) in enumerate(pairwise(segments), 1):
        low, high = sigmas[before.end], sigmas[segment.start]
        ratio = (1 - high) / (1 - low)
        noise = torch.randn(x.shape[1:], generator=generators([candidate_seed(root, number, 0)])[0])
        x = ratio * x + (high**2 - ratio**2 * low**2).sqrt() * noise.double()
    assert torch.allclose(output.results[0].samples[0].double(), x[0], atol=1e-5)


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_the_winner_drawn_again_alone_is_the_same(family: str, scheduler: str | None) -> None:
    pipe = speaking(family, scheduler)
    search = SearchOverPaths(contrast, num_candidates=2, branches=3, num_outputs=2)
    output = found(search, pipe, ["a", PROMPT])
    for result, trace in zip(
        output.results, Trace.from_json(output.trace.to_json()).prompts, strict=True
    ):
        again = search.replay(pipe, trace, **CALL, output_type="pt").images
        assert close(again, result.samples[:1])
        other = next(c for c in trace.stages[-1].kept if c != trace.winner)
        again = search.replay(pipe, trace, other, **CALL, output_type="pt").images
        assert close(again, result.samples[1:])
        assert result.seeds == (trace.seeds[trace.winner], trace.seeds[other])
    with pytest.raises(ConfigError, match="was not finished"):
        search.replay(pipe, trace, 2, **CALL)


def test_paths_go_on_from_the_best_branches() -> None:
    search = SearchOverPaths(contrast, num_candidates=2, branches=3)
    (trace,) = found(search, speaking("flux")).trace.prompts
    assert trace.parents[:2] == (None, None) and len(trace.seeds) == 2 + 6 * len(trace.stages)
    assert len(set(trace.seeds)) == len(trace.seeds)
    kept: Sequence[int] = (0, 1)
    for number, stage in enumerate(trace.stages, 1):
        assert stage.round == number and len(stage.alive) == 6
        parents = [trace.parents[candidate] for candidate in stage.alive]
        assert parents == [kept[0]] * 3 + [kept[1]] * 3
        best = sorted(stage.alive, key=lambda c: -stage.combined[stage.alive.index(c)])
        assert set(stage.kept) == set(best[: len(stage.kept)])
        kept = stage.kept
    assert [stage.is_final for stage in trace.stages] == [False] * (len(trace.stages) - 1) + [True]


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_planned_cost_is_spent_cost(family: str, scheduler: str | None, outputs: int) -> None:
    pipe = speaking(family, scheduler)
    rewards = {"contrast": contrast, "redness": redness}
    search = SearchOverPaths(rewards, num_candidates=3, num_outputs=outputs, branches=2)
    planned = search.plan(pipe, 2, **CALL)
    output = found(search, pipe, ["a", "b"])
    assert output.cost.difference(planned.cost) == {}
    first, *segments = search.segments(8)
    steps = 3 * len(first) + 6 * sum(map(len, segments))
    assert planned.cost.nfe == 2 * steps * (1 if family == "flux" else 2)
    assert [len(result.samples) for result in output.results] == [outputs] * 2
    stages = [(s.step_index, len(s.alive), len(s.kept)) for s in output.trace.prompts[0].stages]
    assert stages == [(s.step_index, s.alive, s.kept) for s in planned.stages]


def test_a_budget_buys_the_most_paths_that_fit() -> None:
    pipe = speaking("flux")

    def planned(**options: Any) -> Any:
        return SearchOverPaths(contrast, branches=2, **options).plan(pipe, 1, **CALL)

    one = planned(num_candidates=1).cost.nfe
    for budget in (one, 2 * one - 1, 2 * one, 5.5 * one):
        assert planned(budget=budget).num_candidates == budget // one
    with pytest.raises(ConfigError, match="is below the cost of 1 candidate"):
        planned(budget=one - 1)


@pytest.mark.parametrize(("family", "scheduler"), FAMILIES)
def test_micro_batches_choose_the_same_winner(family: str, scheduler: str | None) -> None:
    pipe = speaking(family, scheduler)
    whole = found(SearchOverPaths(contrast, num_candidates=2, branches=2), pipe)
    small = found(SearchOverPaths(contrast, num_candidates=2, branches=2, max_rows=3), pipe)
    assert small.seeds == whole.seeds
    assert close(small.results[0].samples, whole.results[0].samples)
    assert small.cost.difference(whole.cost).keys() == {"denoiser_calls"}


def test_each_prompt_of_a_call_is_searched_as_if_it_were_alone() -> None:
    pipe, prompts = speaking("flux"), ["a red circle", "two blue squares"]
    search = SearchOverPaths(contrast, num_candidates=2, branches=2)
    together = found(search, pipe, prompts)
    for index, prompt in enumerate(prompts):
        alone = found(search, pipe, prompt, seeds=[candidate_seeds(0, index, 2)])
        assert together.results[index].seeds == alone.results[0].seeds
        assert close(together.results[index].samples, alone.results[0].samples)


def test_progress_comes_to_the_totals_announced() -> None:
    reports: dict[str, tuple[int, int]] = {}

    def progress(event: str, done: int, total: int) -> None:
        reports[event] = done, total

    found(
        SearchOverPaths(contrast, num_candidates=2, branches=2),
        speaking("flux"),
        ["a", "b"],
        progress=progress,
    )
    assert reports.keys() == {"denoise", "decode", "reward"}
    assert all(done == total for done, total in reports.values())


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failing_reward_leaves_the_pipeline_as_it_was(failure: type[BaseException]) -> None:
    def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
        raise failure("no verdict")

    pipe = speaking("flux")
    plain = pictures(pipe, generator=torch.Generator().manual_seed(3))
    before = type(pipe), set(vars(pipe)), set(vars(pipe.scheduler))
    with pytest.raises(failure):
        found(SearchOverPaths(failing, num_candidates=2, branches=2), pipe)
    assert (type(pipe), set(vars(pipe)), set(vars(pipe.scheduler))) == before
    assert "forward" not in vars(pipe.transformer)
    assert torch.equal(pictures(pipe, generator=torch.Generator().manual_seed(3)), plain)


def test_a_branch_without_a_finite_score_does_not_go_on() -> None:
    def picky(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = contrast(images, prompts)
        scores[1:] = torch.nan
        return scores

    pipe = speaking("flux")
    search = SearchOverPaths(picky, num_candidates=2, branches=2)
    output = found(search, pipe)
    (trace,) = output.trace.prompts
    assert all(stage.kept == stage.alive[:1] for stage in trace.stages)
    assert output.cost.nfe == search.plan(pipe, **CALL).cost.nfe


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"renoise": 0.4, "denoise": 0.4}, "would not come down"),
        ({"branches": 0}, "branches"),
        ({"num_candidates": 2, "num_outputs": 3}, "exceeds"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        SearchOverPaths(contrast, **options)


def test_what_has_no_paths_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a reward"):
        SearchOverPaths(None)
    search = SearchOverPaths(contrast)
    with pytest.raises(ConfigError, match="at least 2 steps"):
        found(search, speaking("flux"), num_inference_steps=1)
    for scheduler in ("pndm", "dpm++", "euler-ancestral"):
        with pytest.raises(UnsupportedPipelineError, match="EulerDiscreteScheduler"):
            found(search, speaking("sd15", scheduler))
    with pytest.raises(UnsupportedPipelineError, match="eta=1"):
        found(search, speaking("sd15", "ddim"), eta=1.0)


def test_it_is_registered_and_says_that_seeds_do_not_suffice() -> None:
    assert SAMPLERS.get("search-over-paths") is SearchOverPaths is gensift.SearchOverPaths
    assert not SearchOverPaths.is_reproducible
