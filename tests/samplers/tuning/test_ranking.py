"""Ranking figures on tensors small enough to work out by hand."""

import numpy as np
import pytest

from gensift.errors import ConfigError
from samplers.tuning.ranking import kendall_tau, ranking_quality, tacc_and_tgap

FINAL = np.array([[4.0, 3.0, 2.0, 1.0]])


def test_tau_counts_pairs() -> None:
    # Five of six pairs agree, one does not.
    assert kendall_tau(np.array([[3.0, 4, 2, 1]]), FINAL) == pytest.approx(4 / 6)
    # Five agree, one ties in the early scores: 5 / sqrt(5 * 6).
    assert kendall_tau(np.array([[4.0, 4, 2, 1]]), FINAL) == pytest.approx(5 / 30**0.5)


def test_prompts_without_an_order_are_left_out_of_tau() -> None:
    early = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1], [1, 1, 1, 1]])
    final = np.array([[4.0, 3, 2, 1], [7, 7, 7, 7], [4, 3, 2, 1]])
    # 1, left out, and 0 for early scores that order nothing.
    assert kendall_tau(early, final) == pytest.approx(0.5)
    assert np.isnan(kendall_tau(early[1:2], final[1:2]))


def test_tacc_and_tgap_by_hand() -> None:
    # Of four, one is kept at 5 % to 45 % (nine ratios), which is not the best but the second;
    # two at 50 % to 70 % and three at 75 % to 95 %, the best among them.
    early = np.array([[3.0, 4, 2, 1]])
    assert tacc_and_tgap(early, FINAL) == pytest.approx((10 / 19, 9 / 19))
    assert tacc_and_tgap(early, FINAL, (25,)) == (0, 1)
    assert tacc_and_tgap(FINAL, FINAL) == (1, 0)


def test_ties_with_the_last_kept_are_kept_as_well() -> None:
    assert tacc_and_tgap(np.array([[4.0, 4, 2, 1]]), FINAL, (25,)) == (1, 0)


def test_whole_numbers_of_images_do_not_suffer_from_rounding() -> None:
    # 55 % of 20 are 11, and the best image is the eleventh.
    early = np.arange(20.0, 0, -1)[None]
    final = np.zeros((1, 20))
    final[0, 10] = 1
    assert tacc_and_tgap(early, final, (55,)) == (1, 0)
    assert tacc_and_tgap(early, final, (50,)) == (0, 1)


def test_broken_scores_are_lowest_and_never_kept() -> None:
    early = np.array([[np.nan, 3.0, 2.0, 1.0]])
    assert tacc_and_tgap(early, FINAL, (95, 25)) == (0, 1)
    assert kendall_tau(early, FINAL) == pytest.approx(0)
    broken = np.full((1, 4), np.inf)
    assert tacc_and_tgap(broken, FINAL, (95,)) == (0, 3)


def test_every_step_is_measured_and_wrong_shapes_are_refused() -> None:
    early = np.stack([FINAL, -FINAL], axis=-1)
    rows = ranking_quality(early, FINAL)
    assert [(row.step_index, row.tau) for row in rows] == [(0, 1), (1, -1)]
    assert rows[1].tgap_quarter == 3
    with pytest.raises(ConfigError, match="shape"):
        ranking_quality(early, FINAL.T)
