"""How many positions a step commits: commit rules. Each commits at least one per row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gensift.pipelines.llada.sampling import most_confident, quota


@dataclass(frozen=True)
class Pace:
    """How far each row is in its window; all int64 `(rows,)`.

    Attributes:
        masks: positions that were masked when it was opened.
        steps: steps that it has.
        step: steps taken.
    """

    masks: Tensor
    steps: Tensor
    step: Tensor


class CommitRule(Protocol):
    """Chooses among the positions of a window."""

    def choose(self, confidence: Tensor, pace: Pace) -> Tensor:
        """Which to commit, bool `(rows, width)`.

        Args:
            confidence: float32 `(rows, width)`, -inf at positions that are not eligible.
            pace: of each row.
        """
        ...


class Quota:
    """The same number in every step, the surest first. Source: LLaDA."""

    def choose(self, confidence: Tensor, pace: Pace) -> Tensor:
        """As many as the quota says, bool `(rows, width)`."""
        return most_confident(confidence, quota(pace.masks, pace.steps, pace.step))


class Threshold:
    """All that are sure enough, and always the surest. Source: Fast-dLLM, section 3.3."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def choose(self, confidence: Tensor, pace: Pace) -> Tensor:
        """All at or above the threshold, bool `(rows, width)`."""
        return _surest(confidence) | (confidence >= self._threshold)


class ThresholdOrQuota:
    """All above the threshold if those are enough, else the quota. Source: LLaDA2."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def choose(self, confidence: Tensor, pace: Pace) -> Tensor:
        """All strictly above the threshold, or as the quota says; bool `(rows, width)`."""
        counts = quota(pace.masks, pace.steps, pace.step)
        is_sure = confidence > self._threshold
        enough = is_sure.sum(1, keepdim=True) >= counts[:, None]
        return torch.where(enough, is_sure, most_confident(confidence, counts))


class Factor:
    """As many as can be committed at once without changing what one at a time would give.

    In order of confidence, the n-th needs `1 - factor / (n + 1)`; up to the first that lacks it.
    Source: Fast-dLLM, theorem 1 and "factor" decoding.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def choose(self, confidence: Tensor, pace: Pace) -> Tensor:
        """The surest ones up to the first failure, bool `(rows, width)`."""
        ordered = confidence.sort(dim=1, descending=True).values
        rank = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        passes = ordered >= 1 - self._factor / (rank + 1)
        counts = passes.long().cumprod(1).sum(1).clamp(min=1)
        return most_confident(confidence, counts)


def _surest(confidence: Tensor) -> Tensor:
    return most_confident(confidence, torch.ones_like(confidence[:, 0], dtype=torch.long))
