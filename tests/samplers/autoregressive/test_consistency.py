"""Agreement of early with final scores, against SciPy and by hand."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from gensift.errors import ConfigError
from samplers.autoregressive.consistency import bootstrap_interval, consistency_curve

NAN = float("nan")


@pytest.mark.parametrize("decimals", [None, 0])
def test_correlations_are_those_of_scipy(decimals):
    """Rounded scores have ties."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(7, 12, 4)).cumsum(axis=2)
    scores += rng.normal(size=(7, 1, 1))
    if decimals is not None:
        scores = scores.round(decimals)
    final = scores[:, :, -1]
    for scale, found in enumerate(consistency_curve(scores)):
        early = scores[:, :, scale]
        ranks = [spearmanr(a, b).statistic for a, b in zip(early, final, strict=True)]
        values = [pearsonr(a, b).statistic for a, b in zip(early, final, strict=True)]
        assert found.spearman == pytest.approx(np.mean(ranks), abs=1e-12)
        assert found.pearson == pytest.approx(np.mean(values), abs=1e-12)
        pooled = pearsonr(early.ravel(), final.ravel()).statistic
        assert found.pooled_pearson == pytest.approx(pooled, abs=1e-12)
        assert found.scale == scale and found.left_out == 0
        assert found.low <= found.spearman <= found.high


def test_the_last_scale_agrees_with_itself():
    last = consistency_curve(np.random.default_rng(1).normal(size=(3, 5, 2)))[-1]
    figures = (last.spearman, last.low, last.high, last.pearson, last.pooled_pearson)
    assert figures == pytest.approx((1, 1, 1, 1, 1), abs=1e-12)
    assert last.best_kept == 1


def test_prompts_that_do_not_vary_are_left_out():
    early = np.array([[1.0, 2, 3], [5, 5, 5], [3, 2, 1], [1, 2, 4]])
    final = np.array([[1.0, 2, 3], [1, 2, 3], [7, 7, 7], [4, 2, 1]])
    found = consistency_curve(np.stack([early, final], axis=2))
    assert (found[0].spearman, found[0].left_out) == (pytest.approx(0.0), 2)
    # At the end only the prompt whose final scores are all equal.
    assert (found[1].spearman, found[1].left_out) == (pytest.approx(1.0), 1)


def test_differences_between_prompts_show_in_the_pooled_figure_only():
    """Every prompt has its own level, and the order within is reversed."""
    level = np.array([[0.0], [100], [200]])
    early, final = level + np.array([[1.0, 2, 3]]), level + np.array([[3.0, 2, 1]])
    found = consistency_curve(np.stack([early, final], axis=2))[0]
    assert found.spearman == pytest.approx(-1) and found.pearson == pytest.approx(-1)
    assert found.pooled_pearson > 0.99


def test_scores_that_are_not_finite_are_left_out():
    early = np.array([[1.0, NAN, 3, 2], [1, 2, 3, 4]])
    final = np.array([[1.0, 9, 3, 5], [-np.inf, 2, 4, 3]])
    found = consistency_curve(np.stack([early, final], axis=2))[0]
    expected = [spearmanr([1, 3, 2], [1, 3, 5]), spearmanr([2, 3, 4], [2, 4, 3])]
    assert found.spearman == pytest.approx(np.mean([part.statistic for part in expected]))
    pooled = pearsonr([1, 3, 2, 2, 3, 4], [1, 3, 5, 2, 4, 3]).statistic
    assert found.pooled_pearson == pytest.approx(pooled)
    # The best of the first prompt is broken at this scale, that of the second is not found.
    assert found.best_kept == 0


def test_a_prompt_with_one_finite_score_has_no_order():
    scores = np.full((1, 3, 2), NAN)
    scores[0, 0] = 1.0
    found = consistency_curve(scores)[0]
    assert found.left_out == 1
    assert all(math.isnan(v) for v in (found.spearman, found.pooled_pearson, found.best_kept))


def test_ties_for_the_best_share_its_place():
    early = np.array([[2.0, 2, 1, 0], [3, 3, 3, 0], [0, 0, 0, 9]])
    final = np.array([[5.0, 1, 1, 1], [5, 5, 1, 1], [1, 2, 3, 4]])
    found = consistency_curve(np.stack([early, final], axis=2))[0]
    assert found.best_kept == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_tiny_and_huge_scores_are_as_good_as_any():
    scores = np.random.default_rng(2).normal(size=(3, 6, 2))
    plain = consistency_curve(scores)[0]
    for unit in (1e-200, 1e200):
        assert consistency_curve(scores * unit)[0].pearson == pytest.approx(plain.pearson)


def test_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_interval(values, seed=0)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.02)
    assert bootstrap_interval(values, seed=0) == (low, high)


def test_one_prompt_has_no_interval():
    found = consistency_curve(np.random.default_rng(4).normal(size=(1, 5, 2)))[0]
    assert math.isnan(found.low) and math.isnan(found.high) and not math.isnan(found.spearman)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (0, 4, 3), (2, 4, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match=r"give \(prompts, candidates, scales\)"):
        consistency_curve(np.zeros(shape))
