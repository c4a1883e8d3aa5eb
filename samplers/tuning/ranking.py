"""How well early scores rank the candidates of a prompt, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from gensift.errors import ConfigError
from samplers.tuning.arrays import Floats, lowest_if_broken, worst_if_broken

PERCENTS = tuple(range(5, 100, 5))
"""Keep ratios that Tacc and Tgap average over, in percent."""


@dataclass(frozen=True, kw_only=True)
class RankingQuality:
    """Ranking quality of the scores after one step, each figure a mean over prompts.

    Attributes:
        step_index: 0-based.
        tau: Kendall's tau-b between early and final scores; 1 is the same order, 0 is chance.
        tacc: share of keep ratios 5 %, 10 %, ..., 95 % at which the best image is kept.
        tgap: final reward lost, best image against best kept image, mean over those ratios.
        tacc_quarter: the share of prompts whose best image is kept when a quarter is.
        tgap_quarter: final reward lost when a quarter is kept.
    """

    step_index: int
    tau: float
    tacc: float
    tgap: float
    tacc_quarter: float
    tgap_quarter: float


def ranking_quality(early: Floats, final: Floats) -> tuple[RankingQuality, ...]:
    """Measure every step.

    A score that is not finite counts as the lowest and is never kept.

    Args:
        early: float `(prompts, images, steps)`.
        final: float `(prompts, images)`, at least one finite per prompt.

    Raises:
        ConfigError: the shapes do not fit.

    Source: the validation of the published TTSnap training, which keeps all images where
    floor(alpha n) is 0; here one is kept.
    """
    if early.ndim != 3 or early.shape[:2] != final.shape:
        raise ConfigError(
            f"early scores have the shape {early.shape} and final ones {final.shape}; give "
            "(prompts, images, steps) and (prompts, images)."
        )
    return tuple(_of_step(early[:, :, step], final, step) for step in range(early.shape[2]))


def kendall_tau(early: Floats, final: Floats) -> float:
    """Mean over prompts of tau-b; NaN when all prompts are left out.

    Prompts whose final scores are all equal have no order to find and are left out. Early scores
    that are all equal order nothing and count as 0.

    Args:
        early: float `(prompts, images)`.
        final: float `(prompts, images)`.
    """
    rows = zip(lowest_if_broken(early), lowest_if_broken(final), strict=True)
    taus = [_tau(guess, truth) for guess, truth in rows if np.ptp(_dense(truth)) > 0]
    return float(np.mean(taus)) if taus else float("nan")


def tacc_and_tgap(
    early: Floats, final: Floats, percents: Sequence[int] = PERCENTS
) -> tuple[float, float]:
    """Whether the best image is kept, and what is lost if not; means over prompts and ratios.

    Of n images max(1, floor(n percent / 100)) are kept, and all that tie with the last of them.

    Args:
        early: float `(prompts, images)`.
        final: float `(prompts, images)`, at least one finite per prompt.
        percents: keep ratios.
    """
    guess, truth = lowest_if_broken(early), worst_if_broken(final)
    best = truth.max(axis=1)
    descending = -np.sort(-guess, axis=1)
    gaps = []
    for percent in percents:
        # Whole numbers: 0.55 * 20 is a little more than 11 in floating point.
        count = max(1, percent * guess.shape[1] // 100)
        is_kept = (guess >= descending[:, [count - 1]]) & np.isfinite(guess)
        found = np.where(is_kept, truth, truth.min(axis=1, keepdims=True)).max(axis=1)
        gaps.append(best - found)
    lost = np.array(gaps)
    return float((lost == 0).mean()), float(lost.mean())


def _of_step(early: Floats, final: Floats, step: int) -> RankingQuality:
    tacc, tgap = tacc_and_tgap(early, final)
    tacc_quarter, tgap_quarter = tacc_and_tgap(early, final, (25,))
    return RankingQuality(
        step_index=step,
        tau=kendall_tau(early, final),
        tacc=tacc,
        tgap=tgap,
        tacc_quarter=tacc_quarter,
        tgap_quarter=tgap_quarter,
    )


def _tau(guess: Floats, truth: Floats) -> float:
    # The p-value is not used; its exact method is slow.
    statistic = kendalltau(_dense(guess), _dense(truth), method="asymptotic").statistic
    return 0.0 if np.isnan(statistic) else float(statistic)


def _dense(values: Floats) -> NDArray[np.int64]:
    """Ranks without gaps, so that -inf is a value like others."""
    return np.unique(values, return_inverse=True)[1]
