"""A search of somebody else's: a selector and a schedule on public names, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from helpers.next_scale_search import PROMPTS, SOFT, Brightness, searchable

from samplers.autoregressive.schedule import SearchSchedule
from samplers.autoregressive.search import NextScaleSearch
from samplers.autoregressive.stage_scoring import CandidateScores
from samplers.autoregressive.view import ScaleView, Selection, Selector

SCALE = 2


@dataclass(frozen=True)
class Calmest:
    """Keeps the candidates whose latents vary least; asks no reward and decodes nothing."""

    width: int

    def select(self, view: ScaleView) -> Selection:
        chosen, scores = [], []
        for index, population in enumerate(view.populations):
            calm = -view.latents[view.rows_of(index)].flatten(1).float().std(1)
            best = calm.argsort(descending=True, stable=True)
            chosen.append(best[: population.size_at(self.width)].tolist())
            scores.append(CandidateScores({"calm": calm}, combined=calm))
        return Selection(chosen, scores)


class CalmSearch(NextScaleSearch):
    """Begins with three times as many candidates, and goes on with the calmest."""

    name: ClassVar[str] = "calm"

    def schedule(self, num_scales: int) -> SearchSchedule:
        widths = tuple(3 if scale < SCALE else 1 for scale in range(num_scales))
        return SearchSchedule(widths, cluster_scales=(SCALE,))

    def selectors(self, scale: int, schedule: SearchSchedule) -> Sequence[Selector]:
        return (Calmest(schedule.widths[scale]),) if scale == SCALE else ()


@pytest.fixture(scope="module", params=["infinity", "var"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_chooses_and_what_goes_on_is_what_its_seed_gives(family: str) -> None:
    pipe: Any = searchable(family)
    found = CalmSearch(Brightness(), num_candidates=2, num_outputs=2)(
        pipe, PROMPTS[family], output_type="pt", **SOFT[family]
    )
    for prompt, result, trace in zip(
        PROMPTS[family], found.results, found.trace.prompts, strict=True
    ):
        selection, final = trace.stages
        assert (selection.step_index, len(selection.alive), len(selection.kept)) == (SCALE, 6, 2)
        by_calm = sorted(selection.alive, key=lambda at: -selection.scores["calm"][at])
        assert set(selection.kept) == set(by_calm[:2]) == set(final.alive)
        for seed, sample in zip(result.seeds, result.samples, strict=True):
            generator = torch.Generator().manual_seed(seed)
            plain = pipe(prompt, generator=[generator], output_type="pt", **SOFT[family]).images
            assert torch.allclose(plain[0], sample, atol=1e-5)
    # Only what is finished is decoded and scored.
    assert (found.cost.decodes, found.cost.reward_calls) == (4, {"brightness": 4})
