"""Schedules against the table of the paper, and the work that follows from them by hand."""

from __future__ import annotations

import pytest

from gensift.errors import ConfigError
from gensift.pipelines.infinity.schedules import schedule_for
from samplers.autoregressive.schedule import SearchSchedule, default_selections, default_widths
from samplers.autoregressive.tts_var import TTSVAR
from samplers.autoregressive.var_best_of_n import VARBestOfN

PUBLISHED = {
    1: (8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1),
    2: (16, 16, 12, 12, 12, 8, 4, 4, 4, 2, 2, 2, 2),
    4: (32, 32, 24, 24, 24, 16, 8, 8, 8, 4, 4, 4, 4),
    8: (64, 64, 48, 48, 48, 32, 16, 16, 16, 8, 8, 8, 8),
}


def schedule(**options: object) -> SearchSchedule:
    return TTSVAR(None, **options).schedule(13)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_after_each_scale_are_the_published_ones(size: int) -> None:
    assert tuple(width * size for width in schedule().widths) == PUBLISHED[size]


def test_selections_are_the_published_ones() -> None:
    assert schedule().cluster_scales == (2, 5)
    assert schedule().resample_scales == (6, 9)


def test_a_scale_is_drawn_with_what_the_scale_before_left() -> None:
    assert schedule().drawn_widths == (8, 8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1)


def test_work_at_1024_pixels() -> None:
    counts = schedule_for("1M").token_counts
    plain = SearchSchedule((1,) * 13).work(counts)
    tokens, pairs = schedule().work(counts)
    assert tokens / plain[0] == pytest.approx(1.3930, abs=5e-5)
    assert pairs / plain[1] == pytest.approx(1.0650, abs=5e-5)


def test_decodes_for_one_finished_picture() -> None:
    # 8 and 6 for clusters, 4 and 2 for rewards, and the picture itself.
    assert schedule().decodes == 21
    assert VARBestOfN(None).schedule(13).decodes == 1


@pytest.mark.parametrize(
    ("num_scales", "selections"),
    [
        (13, ((2, 5), (6, 9))),
        (10, ((2, 4), (5, 7))),
        (7, ((1, 3), (4, 5))),
        (6, ((1, 2), (3, 4))),
    ],
)
def test_other_models_take_their_selections_in_proportion(
    num_scales: int, selections: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    assert default_selections(num_scales) == selections


def test_default_widths_fall_at_the_selections() -> None:
    assert default_widths(6, (1, 2, 3, 4)) == (8, 6, 4, 2, 1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"resample_scales": (6, 12)},
            r"scale 12 is among the selections.*13 scales.*after scales 1 to 11",
        ),
        ({"cluster_scales": (0, 5)}, r"scale 0 is among the selections"),
        ({"resample_scales": (5, 9)}, r"scale 5 selects twice; give it to clusters or to rewards"),
        ({"widths": (8, 4, 1)}, r"`widths` has 3 entries and the model 13 scales"),
        (
            {"widths": (8, 6, *(6,) * 3, 4, 2, 2, 2, 1, 1, 1, 1)},
            r"width falls from 8 to 6 after scale 1, where nothing is selected",
        ),
        (
            {"widths": (8,) * 5 + (4, 2, 2, 2, 1, 1, 1, 1)},
            r"clusters are formed after scale 2, but its width stays 8",
        ),
        ({"widths": (6, 8, *(1,) * 11)}, r"width 8 of scale 1 follows 6; it may not grow"),
        ({"widths": (8, 8, 6, 6, 6, 4, 2, 2, 2, 2, 2, 2, 2)}, r"must be 1 or more, and 1 at the"),
        ({"resample_scales": (6, 7, 9)}, r"5 selections were given.*give `widths` too"),
    ],
)
def test_what_disagrees_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        schedule(**options)
    assert "\n" not in str(caught.value)


def test_few_scales_have_no_defaults() -> None:
    with pytest.raises(ConfigError, match=r"5 scales has no default selections"):
        default_selections(5)
