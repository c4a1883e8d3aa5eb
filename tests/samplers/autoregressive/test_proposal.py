"""Schedules proposed from curves made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from samplers.autoregressive.consistency import Agreement
from samplers.autoregressive.proposal import first_telling_scale, propose
from samplers.autoregressive.schedule import SearchSchedule
from samplers.autoregressive.tts_var import TTSVAR

NAN = float("nan")
PUBLISHED = (0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.62, 0.66, 0.7, 0.75, 0.8, 0.9, 1.0)


def curve_of(values: Sequence[float]) -> list[Agreement]:
    return [
        Agreement(
            scale=scale,
            spearman=value,
            low=value - 0.05,
            high=value + 0.05,
            pearson=value,
            pooled_pearson=value,
            best_kept=value,
            left_out=0,
        )
        for scale, value in enumerate(values)
    ]


def test_the_published_curve_gives_the_published_schedule() -> None:
    found = propose(curve_of(PUBLISHED))
    assert found.schedule == TTSVAR(None).schedule(13)
    assert "from scale 6 on the Spearman correlation is 0.6 or more (0.62 there" in found.reason
    assert found.generate_config() == {
        "sampler": "tts-var",
        "options": {
            "cluster_scales": [2, 5],
            "resample_scales": [6, 9],
            "widths": [8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1],
        },
    }


@pytest.mark.parametrize(
    ("first", "clusters", "resamples", "widths"),
    [
        (1, (), (1, 3), (4, 2, 2, 1, 1, 1, 1)),
        (2, (1,), (2, 4), (6, 4, 2, 2, 1, 1, 1)),
        (3, (1, 2), (3, 4), (8, 6, 4, 2, 1, 1, 1)),
        (4, (1, 3), (4, 5), (8, 6, 6, 4, 2, 1, 1)),
        (5, (2, 4), (5,), (6, 6, 4, 4, 2, 1, 1)),
    ],
)
def test_wherever_rewards_begin_to_tell(
    first: int, clusters: tuple[int, ...], resamples: tuple[int, ...], widths: tuple[int, ...]
) -> None:
    found = propose(curve_of([0.2] * first + [0.8] * (6 - first) + [1.0]))
    assert found.schedule == SearchSchedule(widths, clusters, resamples)
    count = len(clusters) + len(resamples)
    assert ("of the published 4 selections" in found.reason) == (count < 4)


@pytest.mark.parametrize("num_scales", range(1, 15))
@pytest.mark.parametrize("first", range(15))
def test_a_search_takes_every_proposal(num_scales: int, first: int) -> None:
    values = [0.2 if scale < first else 0.8 for scale in range(num_scales)]
    found = propose(curve_of(values))
    options = found.generate_config().get("options", {})
    if options:
        assert TTSVAR(None, **options).schedule(num_scales) == found.schedule
    else:
        assert found.schedule.selections == ()
        assert found.generate_config() == {"sampler": "var-best-of-n"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.9, 0.9, 0.9, 1.0), 1),
        # A scale that passes by chance is none to begin at.
        ((0.0, 0.7, 0.3, 0.6, 1.0), 3),
        ((0.0, 0.7, 0.8, 0.3, 1.0), None),
        ((0.0, NAN, 0.7, 0.8, 1.0), 2),
        ((0.0, 0.7, NAN, 1.0), None),
        ((0.9, 1.0), None),
        ((1.0,), None),
    ],
)
def test_where_rewards_begin_to_tell(values: Sequence[float], expected: int | None) -> None:
    assert first_telling_scale(curve_of(values), 0.6) == expected


def test_the_threshold_decides() -> None:
    assert propose(curve_of(PUBLISHED), 0.7).schedule.resample_scales == (8, 10)
    assert propose(curve_of(PUBLISHED), 0.2).schedule.resample_scales == (3, 7)


def test_rewards_that_tell_nothing_leave_clusters_or_best_of_n() -> None:
    found = propose(curve_of([0.1] * 12 + [1.0]))
    assert (found.schedule.cluster_scales, found.schedule.resample_scales) == ((2, 5), ())
    assert found.schedule.widths == (4, 4, 2, 2, 2, *[1] * 8)
    assert "rewards tell too little to resample by; form clusters only" in found.reason
    few = propose(curve_of([0.1] * 4 + [1.0]))
    assert few.generate_config() == {"sampler": "var-best-of-n"}
    assert "5 scales are too few for clusters alone, so draw best-of-N" in few.reason


def test_too_few_scales_leave_best_of_n() -> None:
    found = propose(curve_of([0.9, 1.0]))
    assert found.generate_config() == {"sampler": "var-best-of-n"}
    assert "the model has 2 scale(s)" in found.reason
