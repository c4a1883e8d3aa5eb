"""Token counts of the published schedules, and what is no schedule."""

import pytest

from gensift.errors import ConfigError
from gensift.pipelines.infinity.schedules import schedule_for
from gensift.pipelines.next_scale.scales import ScaleSchedule, square_schedule
from gensift.pipelines.var.convert import PUBLISHED_SCALES


def test_published_token_counts() -> None:
    assert [square_schedule(sides).ends[-1] for sides in PUBLISHED_SCALES] == [680, 2240]
    counts = [schedule_for(size).ends[-1] for size in ("1M", "0.25M", "0.06M")]
    assert counts == [10521, 2521, 521]


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([], "at least one scale"),
        ([(2, 2)], "first scale is 2x2"),
        ([(1, 1), (3, 2), (2, 4)], "2x4 follows 3x2"),
    ],
)
def test_scales_grow_from_one(scales: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScaleSchedule.of(scales)
