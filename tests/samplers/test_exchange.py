"""Candidates shared among several processes: the same search as in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.searches import PROMPT, TOLERANCE, contrast, generators, redness
from helpers.speaking_pipelines import SIZE, speaking
from helpers.threads import InThread, in_threads
from torch import Tensor

import gensift
from gensift.errors import ConfigError, RewardError
from gensift.randomness import candidate_seeds
from samplers.diffusion.best_of_n import BestOfN
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.ttsnap import TTSnap
from samplers.exchange import ALONE, own_candidates
from samplers.output import SamplerOutput

STEPWISE = {"checkpoints": (0.2, 0.5), "keep": (0.5, 0.5)}


def search_in(
    size: int, make: Any, prompts: Any = PROMPT, family: str = "flux", **call: Any
) -> tuple[list[SamplerOutput], list[list[Any]]]:
    """The outputs of `size` searches that share their candidates, and what was exchanged."""
    pipes = [speaking(family) for _ in range(size)]

    def work(exchange: InThread) -> SamplerOutput:
        search: DiffusionSearch = make(exchange)
        pipe = pipes[exchange.rank]
        return search(pipe, prompts, output_type="pt", **{**SIZE, **call})

    outputs, meeting = in_threads(size, work)
    return outputs, meeting.sent


def assert_same(outputs: Sequence[SamplerOutput], alone: SamplerOutput) -> None:
    for output in outputs:
        assert output.seeds == alone.seeds
        assert output.rewards == pytest.approx(alone.rewards, abs=TOLERANCE)
        assert output.cost.difference(alone.cost).keys() <= {"denoiser_calls"}
        for ours, theirs in zip(output.trace.prompts, alone.trace.prompts, strict=True):
            assert ours.seeds == theirs.seeds
            for stage, expected in zip(ours.stages, theirs.stages, strict=True):
                assert (stage.alive, stage.kept) == (expected.alive, expected.kept)
                assert stage.combined == pytest.approx(expected.combined, abs=TOLERANCE)
                assert stage.timestep == expected.timestep
                assert stage.sigma == pytest.approx(expected.sigma)
                assert stage.is_final == expected.is_final
    for place, expected in enumerate(alone.samples):
        owned = [o.samples[place] for o in outputs if o.samples[place] is not None]
        assert len(owned) == 1  # drawn, decoded and returned by just one of them
        assert float((owned[0] - expected).abs().max()) <= TOLERANCE


CASES: dict[str, tuple[int, type[DiffusionSearch], dict[str, Any]]] = {
    "evenly": (2, BestOfN, {"num_candidates": 6}),
    "unevenly": (3, BestOfN, {"num_candidates": 7, "num_outputs": 4}),
    "pruned": (2, TTSnap, {"num_candidates": 8, **STEPWISE}),
    "all pruned but one's": (
        4,
        TTSnap,
        {"num_candidates": 8, "keep": (0.2,), "checkpoints": (0.4,)},
    ),
    "fewer candidates than processes": (3, TTSnap, {"num_candidates": 2, **STEPWISE}),
    "in small batches": (2, TTSnap, {"num_candidates": 7, "max_rows": 2, **STEPWISE}),
}


@pytest.mark.parametrize("family", ["flux", "sd15"])
@pytest.mark.parametrize("name", CASES)
def test_sharing_changes_neither_winners_nor_cost(name: str, family: str) -> None:
    size, kind, options = CASES[name]
    (alone,), _ = search_in(1, lambda _: kind(contrast, **options), family=family)
    shared, _ = search_in(size, lambda e: kind(contrast, exchange=e, **options), family=family)
    assert_same(shared, alone)


def test_each_prompt_is_pruned_over_all_processes() -> None:
    prompts = ["a red circle", "two blue squares", "a cross"]
    options = {"num_candidates": 5, "num_outputs": 2, **STEPWISE}
    rewards = {"contrast": contrast, "redness": redness}
    (alone,), _ = search_in(1, lambda _: TTSnap(rewards, **options), prompts)
    shared, _ = search_in(2, lambda e: TTSnap(rewards, exchange=e, **options), prompts)
    assert_same(shared, alone)


def test_without_a_reward_every_sample_comes_back_from_who_drew_it() -> None:
    (alone,), _ = search_in(1, lambda _: BestOfN(None, num_candidates=5))
    shared, _ = search_in(2, lambda e: BestOfN(None, num_candidates=5, exchange=e))
    assert_same(shared, alone)
    assert [sample is None for sample in shared[0].samples] == [False, True] * 2 + [False]


def test_a_process_whose_candidates_are_all_dropped_denoises_no_more() -> None:
    """Scores by seed: candidates 0 and 2, those of process 0, are the best ones."""
    steps: dict[int, int] = {0: 0, 1: 0}
    pipes = [speaking("flux") for _ in range(2)]

    def work(exchange: InThread) -> SamplerOutput:
        def progress(event: str, done: int, total: int) -> None:
            steps[exchange.rank] += event == "denoise"

        def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
            return torch.full((len(images),), -float(exchange.rank))

        search = TTSnap(score, num_candidates=4, checkpoints=(0.3,), keep=(0.5,), exchange=exchange)
        return search(pipes[exchange.rank], PROMPT, progress=progress, **SIZE)

    outputs, _ = in_threads(2, work)
    assert steps == {0: 6, 1: 3}
    for output in outputs:
        assert output.seeds == candidate_seeds(0, 0, 4)[:1]
        assert output.cost.nfe == 4 * 3 + 2 * 3
        assert output.cost.decodes == 4 + 2 + 1
        assert output.cost.reward_calls == {"score": 6}
    assert outputs[0].samples[0] is not None and outputs[1].samples[0] is None
    assert type(pipes[1]).__call__ is not None and "step" not in vars(pipes[1].scheduler)


def test_no_picture_is_exchanged() -> None:
    def make(exchange: InThread) -> DiffusionSearch:
        return TTSnap(contrast, num_candidates=6, keep_previews=True, exchange=exchange, **STEPWISE)

    outputs, sent = search_in(2, make)
    assert any(stage.previews for stage in outputs[1].trace.prompts[0].stages)
    told = [value for values in sent for value in values]
    assert told and not any("Tensor" in repr(v) or "Image" in repr(v) for v in told)


def test_a_measured_number_of_candidates_is_that_of_the_first_process() -> None:
    class Measured(BestOfN):
        def num_candidates(self, call: Any) -> int:
            return 3 + 2 * self.exchange.rank

    outputs, _ = search_in(2, lambda e: Measured(contrast, exchange=e))
    assert [len(output.trace.prompts[0].seeds) for output in outputs] == [3, 3]


def test_a_score_that_is_nowhere_finite_stops_all() -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), torch.nan)

    def work(exchange: InThread) -> str:
        with pytest.raises(RewardError, match="any of the 4 candidates") as caught:
            BestOfN(broken, num_candidates=4, exchange=exchange)(
                pipes[exchange.rank], PROMPT, **SIZE
            )
        return str(caught.value)

    pipes = [speaking("flux") for _ in range(2)]
    (first, second), _ = in_threads(2, work)
    assert first == second


def test_what_cannot_share_says_so() -> None:
    class Whole(DiffusionSearch):
        name = "whole"

    with pytest.raises(ConfigError, match="cannot share the candidates"):
        Whole(contrast, exchange=InThread(0, _Two()))
    pipe = speaking("flux")
    search = BestOfN(contrast, exchange=InThread(0, _Two()))
    embeds = {"prompt_embeds": torch.zeros(2, 3, 32), "pooled_prompt_embeds": torch.zeros(2, 16)}
    with (
        gensift.attach(search, pipe, prompts=[PROMPT]),
        pytest.raises(ConfigError, match="give the prompt as text"),
    ):
        pipe(**embeds, generator=generators([1, 2]), **SIZE)


class _Two:
    size = 2


def test_candidates_are_dealt_in_turn() -> None:
    assert own_candidates(ALONE, 3) == (0, 1, 2)
    parts = [own_candidates(InThread(rank, _Three()), 5) for rank in range(3)]
    assert parts == [(0, 3), (1, 4), (2,)]


class _Three:
    size = 3
