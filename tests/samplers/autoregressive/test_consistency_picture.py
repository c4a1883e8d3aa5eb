"""The picture of a curve shows the curve, its interval and the selections."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samplers.autoregressive.consistency import Agreement, consistency_curve
from samplers.autoregressive.consistency_picture import CLUSTER, CURVE, RESAMPLE, draw_curve
from samplers.autoregressive.proposal import propose


def curve() -> tuple[Agreement, ...]:
    rng = np.random.default_rng(0)
    final = rng.normal(size=(20, 8, 1))
    noise = np.linspace(4, 0, 8) * rng.normal(size=(20, 8, 8))
    return consistency_curve(final + noise)


def has_colour(path: Path, colour: str, alpha: float = 1.0) -> bool:
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    seen = 255 + alpha * (wanted - 255)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(float)
    return bool((np.abs(pixels - seen).max(axis=2) < 3).any())


@pytest.mark.parametrize("grids", [(), tuple((side, side) for side in range(1, 9))])
def test_all_is_drawn(tmp_path, grids):
    path = tmp_path / "curve.png"
    found = propose(curve())
    assert found.schedule.cluster_scales and found.schedule.resample_scales
    draw_curve(curve(), found.schedule, 0.6, path, grids)
    for colour, alpha in ((CURVE, 1.0), (CURVE, 0.2), (CLUSTER, 0.25), (RESAMPLE, 0.25)):
        assert has_colour(path, colour, alpha)


def test_a_curve_of_one_prompt_or_none_is_drawn_too(tmp_path):
    path = tmp_path / "curve.png"
    scores = np.random.default_rng(1).normal(size=(1, 4, 3))
    for part in (scores, np.zeros_like(scores)):
        found = consistency_curve(part)
        draw_curve(found, propose(found).schedule, 0.6, path)
        assert not has_colour(path, CLUSTER, 0.25)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    folder = tmp_path / "taken.png"
    folder.mkdir()
    with pytest.raises(OSError):
        draw_curve(curve(), propose(curve()).schedule, 0.6, folder)
    assert list(tmp_path.iterdir()) == [folder]
