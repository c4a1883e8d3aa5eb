"""Reward against budget: what a search found, and what best-of-N of the same seeds would have.

Only what the trace holds is used. Best-of-k takes the first k candidates; where one of them was
dropped before it was finished, its final reward is not known, and the best of the finished ones
among them is a lower bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gensift.trace import PromptTrace, Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GOLD, BLUE = "#7c8496", "#dd9a00", "#4a7fd0"


@dataclass(frozen=True)
class BestOf:
    """What best-of-`count` would have found.

    Attributes:
        count: candidates.
        work: that they cost, denoiser rows.
        reward: highest final reward among them that is known.
        is_exact: whether all of them were finished, so that nothing higher is possible.
    """

    count: int
    work: int
    reward: float
    is_exact: bool


def best_of_n(trace: PromptTrace, rows_per_candidate: int) -> list[BestOf]:
    """Best-of-k for k from 1, from the first k at which a finished candidate is known.

    Empty where candidates were copied or changed on the way: what their seeds alone would have
    given is then not in the trace.
    """
    finals = _finals(trace)
    found, best, is_exact = [], -math.inf, True
    for candidate in range(_independent(trace)):
        reward = finals.get(candidate)
        is_exact = is_exact and reward is not None
        best = max(best, -math.inf if reward is None else reward)
        if math.isfinite(best):
            found.append(
                BestOf(candidate + 1, (candidate + 1) * rows_per_candidate, best, is_exact)
            )
    return found


def words(found: list[BestOf], work: int, reward: float) -> str:
    """The same in a sentence or two."""
    if not found:
        return (
            "This search copies or changes candidates on the way, so its trace does not tell what "
            "best-of-N of the same seeds would have found."
        )
    whole = found[-1]
    bound = "" if whole.is_exact else "at least "
    text = (
        f"The search found {reward:.3f} for {work} denoiser rows. Finishing all {whole.count} "
        f"candidates would have taken {whole.work} and found {bound}{whole.reward:.3f}."
    )
    if not whole.is_exact:
        text += " Dropped candidates were never finished, so their final rewards are not known."
    return text


def draw(found: list[BestOf], work: int, reward: float) -> Figure:
    """The curve of best-of-N, exact parts solid and lower bounds dashed, and the search's point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    known = sum(point.is_exact for point in found)
    exact, bound = found[:known], found[max(0, known - 1) :]
    for part, line, label in ((exact, "-", "best-of-N"), (bound, "--", "best-of-N, at least")):
        if len(part) > 1 or len(found) == 1:
            xs, ys = [p.work for p in part], [p.reward for p in part]
            axes.plot(xs, ys, line, color=BLUE, drawstyle="steps-post", label=label)
    axes.plot([work], [reward], "*", color=GOLD, markersize=15, label="this search")
    axes.set_xlabel("denoiser rows", color=INK)
    axes.set_ylabel("reward of the best", color=INK)
    axes.set_xlim(left=0)
    axes.tick_params(colors=INK)
    for side in axes.spines.values():
        side.set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=INK, loc="best")
    return figure


def _independent(trace: PromptTrace) -> int:
    """Candidates that were drawn from seeds of their own; 0 where copies took their places."""
    first = [stage for stage in trace.stages if stage.round in (None, 0)]
    if not first or any(stage.parents is not None for stage in first):
        return 0
    return len(trace.seeds) if not trace.parents else trace.parents.count(None)


def _finals(trace: PromptTrace) -> dict[int, float]:
    stages: list[Stage] = [s for s in trace.stages if s.is_final and s.round in (None, 0)]
    return {
        candidate: score
        for stage in stages
        for candidate, score in zip(stage.alive, stage.combined, strict=True)
        if math.isfinite(score)
    }
