"""How well rewards of half-drawn pictures agree with those of the finished ones, scale by scale.

Source: the consistency curve of TTS-VAR, arXiv 2507.18537, section 4, by which the paper tells the
scales that rewards can choose at from those that they cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from gensift.errors import ConfigError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95
DRAWS = 2000
"""Of the bootstrap."""
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What the rewards after one scale say of the final ones; NaN where nothing can be said.

    Attributes:
        scale: index of the scale.
        spearman, pearson: mean over prompts of the correlation among a prompt's own candidates.
        low, high: 95 % bootstrap interval of `spearman` over prompts; NaN with fewer than two.
        pooled_pearson: over the candidates of all prompts together, whose differences count too.
        best_kept: how often the best candidate at this scale is the final best; where several tie
            for the best, the chance that one of them drawn at random is.
        left_out: prompts whose scores do not vary, at this scale or at the end; they take no part
            in any mean over prompts.
    """

    scale: int
    spearman: float
    low: float
    high: float
    pearson: float
    pooled_pearson: float
    best_kept: float
    left_out: int


def consistency_curve(scores: Floats, *, seed: int = 0) -> tuple[Agreement, ...]:
    """Compare every scale with the last.

    A candidate without a finite score at a scale or at the end is left out of the correlations of
    that scale, and is never the best.

    Args:
        scores: float `(prompts, candidates, scales)`; the last scale is the finished picture.
        seed: of the bootstrap.

    Raises:
        ConfigError: the shape is not such, or there are fewer than two candidates.
    """
    if scores.ndim != 3 or 0 in scores.shape or scores.shape[1] < 2:
        raise ConfigError(
            f"scores have the shape {scores.shape}; give (prompts, candidates, scales), two "
            "candidates or more."
        )
    final = scores[:, :, -1].astype(np.float64)
    return tuple(
        _agreement(scale, scores[:, :, scale].astype(np.float64), final, seed)
        for scale in range(scores.shape[2])
    )


def bootstrap_interval(values: Floats, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `values` `(prompts,)`; NaN with fewer than two."""
    if len(values) < 2:
        return NAN, NAN
    drawn = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def _agreement(scale: int, early: Floats, final: Floats, seed: int) -> Agreement:
    rows = [_of_prompt(*pair) for pair in zip(early, final, strict=True)]
    figures = [row for row in rows if row is not None]
    spearman, pearson, best_kept = np.array(figures, dtype=np.float64).reshape(-1, 3).T
    low, high = bootstrap_interval(spearman, seed)
    is_finite = np.isfinite(early) & np.isfinite(final)
    return Agreement(
        scale=scale,
        spearman=_mean(spearman),
        low=low,
        high=high,
        pearson=_mean(pearson),
        pooled_pearson=_pooled(early[is_finite], final[is_finite]),
        best_kept=_mean(best_kept),
        left_out=len(rows) - len(figures),
    )


def _of_prompt(early: Floats, final: Floats) -> tuple[float, float, float] | None:
    """Spearman, Pearson and whether the best is kept; None where scores do not vary."""
    is_finite = np.isfinite(early) & np.isfinite(final)
    left, right = early[is_finite], final[is_finite]
    if not (_varies(left) and _varies(right)):
        return None
    spearman = _pearson(rankdata(left), rankdata(right))
    return spearman, _pearson(left, right), _best_kept(early, final)


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool(values.min() < values.max())


def _pearson(left: Floats, right: Floats) -> float:
    left, right = left - left.mean(), right - right.mean()
    # Each is scaled to 1 first, so that squares of tiny or huge numbers do not leave the range.
    left, right = left / np.abs(left).max(), right / np.abs(right).max()
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


def _pooled(early: Floats, final: Floats) -> float:
    return _pearson(early, final) if _varies(early) and _varies(final) else NAN


def _best_kept(early: Floats, final: Floats) -> float:
    return float(_is_best(final)[_is_best(early)].mean())


def _is_best(scores: Floats) -> Mask:
    lowest_if_broken = np.where(np.isfinite(scores), scores, -np.inf)
    is_best: Mask = lowest_if_broken == lowest_if_broken.max()
    return is_best


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else NAN
