"""Who survives, who wins, and in which order, against choices made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from helpers.searches import PROMPT, close, contrast, generators, pictures, plain, redness, sifted
from helpers.speaking_pipelines import speaking
from torch import Tensor

import gensift
from gensift.errors import RewardError
from gensift.randomness import candidate_seeds
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import TTSnap

SEEDS = (5, 3, 8, 1, 9, 2)


def test_each_prompt_of_a_call_is_searched_as_if_it_were_alone() -> None:
    pipe, prompts = speaking("flux"), ["a red circle", "two blue squares"]
    seeds = [candidate_seeds(0, index, 7) for index in range(2)]
    both, together = sifted(TTSnap(contrast), pipe, prompts, num_images_per_prompt=7)
    assert len(both) == len(together.results) == 2
    for index, prompt in enumerate(prompts):
        with gensift.attach(TTSnap(contrast), pipe, seeds=[seeds[index]]) as run:
            alone = pictures(pipe, prompt, num_images_per_prompt=7)
        assert together.results[index].prompt == prompt
        assert together.results[index].seeds == run.output.results[0].seeds
        assert together.seeds[index] in seeds[index]
        assert close(both[[index]], alone)
        assert close(both[[index]], plain(pipe, [together.seeds[index]], prompt))
        stages = together.trace.prompts[index].stages
        assert [stage.kept for stage in stages] == [
            stage.kept for stage in run.output.trace.prompts[0].stages
        ]


def test_without_a_reward_all_samples_come_back_in_order() -> None:
    pipe = speaking("sd15")
    with gensift.attach(BestOfN(None), pipe, seeds=[SEEDS]) as run:
        images = pictures(pipe, num_images_per_prompt=6)
    assert torch.equal(images, plain(pipe, SEEDS))
    assert run.output.seeds == list(SEEDS)
    assert run.output.rewards == []
    assert run.output.cost.reward_calls == {}


@pytest.mark.parametrize("search", [BestOfN, TTSnap])
def test_the_best_three_come_back_best_first(search: type[DiffusionSearch]) -> None:
    pipe = speaking("flux")
    seeds = candidate_seeds(0, 0, 8)
    images, output = sifted(search(contrast, num_outputs=3), pipe, num_images_per_prompt=8)
    scores = contrast(images, []).tolist()
    assert len(images) == 3
    assert scores == sorted(scores, reverse=True)
    assert output.rewards == pytest.approx(scores)
    assert close(images, plain(pipe, output.seeds))
    if search is BestOfN:
        by_score = contrast(plain(pipe, seeds), []).argsort(descending=True).tolist()
        assert output.seeds == [seeds[candidate] for candidate in by_score[:3]]


def test_several_rewards_are_combined_by_rank_sum() -> None:
    pipe, seeds = speaking("flux"), range(10)
    candidates = plain(pipe, seeds)
    columns = {
        "contrast": contrast(candidates, []).tolist(),
        "redness": redness(candidates, []).tolist(),
    }
    totals = [
        sum(sum(other < column[row] for other in column) for column in columns.values())
        for row in seeds
    ]
    expected = sorted(seeds, key=lambda row: (-totals[row], row))
    alone = [max(seeds, key=column.__getitem__) for column in columns.values()]
    assert expected[0] not in alone  # or one reward would do
    search = BestOfN({"contrast": contrast, "redness": redness}, num_outputs=10)
    _, output = sifted(search, pipe, num_images_per_prompt=10, generator=generators(seeds))
    assert output.seeds == expected
    assert output.rewards == [totals[row] for row in expected]
    for found, row in zip(output.results[0].all_rewards, expected, strict=True):
        assert found == pytest.approx({name: column[row] for name, column in columns.items()})
    assert output.cost.reward_calls == {"contrast": 10, "redness": 10}


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, -math.inf])
def test_candidates_without_a_finite_score_never_survive(spoiled: float) -> None:
    pipe = speaking("flux")
    arguments = {"num_images_per_prompt": 10}
    _, healthy = sifted(TTSnap(redness), pipe, **arguments)
    first = healthy.trace.prompts[0].stages[0]
    threshold = sorted(first.combined)[2]

    def broken_above(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = redness(images, prompts)
        return torch.where(scores >= threshold, spoiled, scores)

    images, output = sifted(TTSnap(broken_above), pipe, **arguments)
    stages = output.trace.prompts[0].stages
    assert len(first.kept) > 2
    assert set(stages[0].kept) == {c for c in range(10) if first.combined[c] < threshold}
    for stage in stages:
        score_of = dict(zip(stage.alive, stage.scores["broken_above"], strict=True))
        assert all(math.isfinite(score_of[candidate]) for candidate in stage.kept)
    assert math.isfinite(output.rewards[0])
    assert close(images, plain(pipe, output.seeds))


def test_no_finite_score_at_all_is_one_clear_error() -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), math.nan)

    expected = rf"^Reward broken gave no finite score for any of the 4 candidates of '{PROMPT}' "
    with pytest.raises(RewardError, match=expected) as caught:
        sifted(TTSnap(broken), speaking("flux"), num_images_per_prompt=4)
    assert "\n" not in str(caught.value)


def test_a_prompt_without_a_finite_score_is_named_among_several() -> None:
    def broken_for_blue(images: Tensor, prompts: Sequence[str]) -> Tensor:
        is_blue = torch.tensor(["blue" in prompt for prompt in prompts])
        return torch.where(is_blue, math.nan, contrast(images, prompts))

    with pytest.raises(RewardError, match="3 candidates of 'a blue cross'"):
        sifted(
            BestOfN(broken_for_blue),
            speaking("flux"),
            [PROMPT, "a blue cross"],
            num_images_per_prompt=3,
        )


def test_every_row_is_judged_against_its_own_prompt_in_any_batch() -> None:
    seen: list[str] = []

    def recording(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.extend(prompts)
        return contrast(images, prompts)

    search = BestOfN(recording, max_rows=2)
    sifted(search, speaking("flux"), ["a", "b"], num_images_per_prompt=3)
    assert seen == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize("search", [BestOfN(contrast), TTSnap(contrast), BestOfN(None)])
def test_progress_counts_up_to_its_own_totals(search: DiffusionSearch) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def progress(event: str, done: int, total: int) -> None:
        seen.setdefault(event, []).append((done, total))

    pipe = speaking("flux")
    with gensift.attach(search, pipe, progress=progress) as run:
        pictures(pipe, ["a", "b"], num_images_per_prompt=6)
    for reports in seen.values():
        done = [count for count, _ in reports]
        assert done == sorted(done)
        assert {total for _, total in reports} == {done[-1]}
    assert seen["denoise"][-1][0] == run.output.cost.nfe
    judging = set() if search.reward is None else {"decode", "reward"}
    assert seen.keys() == {"denoise", *judging}
