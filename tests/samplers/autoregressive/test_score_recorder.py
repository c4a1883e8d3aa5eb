"""What is recorded is what the reward says of each scale, and recording changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.next_scale_search import PROMPTS, SIDES, SOFT, Brightness, generators, searchable
from torch import Tensor

from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.randomness import candidate_seeds
from samplers.autoregressive.score_recorder import ScoreRecorder, record_scores
from samplers.autoregressive.var_best_of_n import VARBestOfN

CANDIDATES = 3


@pytest.fixture(scope="module", params=["infinity", "var"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return searchable(family)


def test_scores_are_those_of_the_decoded_states(pipe: Any, family: str) -> None:
    texts = PROMPTS[family]
    expected = np.zeros((len(texts), CANDIDATES, len(SIDES)))
    reward = Brightness()
    for at, text in enumerate(texts):
        for candidate, seed in enumerate(candidate_seeds(5, at, CANDIDATES)):
            state = pipe.start(text, generator=generators(seed), **SOFT[family])
            for scale in range(len(SIDES)):
                pipe.step(state)
                expected[at, candidate, scale] = float(reward(pipe.decode(state.latents), [text]))
    done: list[int] = []
    found = record_scores(
        pipe,
        texts,
        Brightness(),
        num_candidates=CANDIDATES,
        seed=5,
        on_prompt=done.append,
        **SOFT[family],
    )
    assert found.dtype == np.float64
    assert np.allclose(found, expected, atol=1e-4)
    assert found.std(axis=1).max() > 1e-3
    assert done == [1] * len(texts)


def test_judging_on_the_way_changes_no_picture(pipe: Any, family: str) -> None:
    options = {"num_candidates": CANDIDATES, "num_outputs": CANDIDATES}
    runs = [
        kind(Brightness(), **options)(pipe, PROMPTS[family], output_type="pt", **SOFT[family])
        for kind in (VARBestOfN, ScoreRecorder)
    ]
    assert runs[0].seeds == runs[1].seeds
    assert runs[0].rewards == runs[1].rewards
    assert torch.equal(torch.stack(runs[0].samples), torch.stack(runs[1].samples))


def test_the_plan_counts_every_verdict(pipe: Any, family: str) -> None:
    recorder = ScoreRecorder(Brightness(), num_candidates=CANDIDATES)
    seen: dict[str, tuple[int, int]] = {}
    planned = recorder.plan(pipe, 1, **SOFT[family]).cost
    assert planned.reward_calls == {"brightness": CANDIDATES * len(SIDES)}
    recorder(
        pipe,
        PROMPTS[family][0],
        progress=lambda event, done, total: seen.update({event: (done, total)}),
        **SOFT[family],
    )
    assert seen["reward"][1] == CANDIDATES * len(SIDES)


def test_rows_at_a_time_change_nothing(pipe: Any, family: str) -> None:
    tables = [
        record_scores(
            pipe,
            PROMPTS[family][:1],
            Brightness(),
            num_candidates=CANDIDATES,
            max_rows=rows,
            **SOFT[family],
        )
        for rows in (None, 2)
    ]
    assert np.allclose(*tables, atol=1e-4)


def test_broken_verdicts_are_the_lowest(pipe: Any, family: str) -> None:
    def infinite(images: Tensor, prompts: Any) -> Tensor:
        return torch.full((len(images),), -torch.inf)

    found = record_scores(pipe, PROMPTS[family][:1], infinite, num_candidates=2, **SOFT[family])
    assert np.isneginf(found).all()


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ConfigError, match="There is no reward to record"):
        ScoreRecorder(None)
    with pytest.raises(UnsupportedPipelineError, match="does not draw scale by scale"):
        record_scores({}, ["a red circle"], Brightness(), num_candidates=2)
