"""What the tuner recommends at a budget, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import t as student

from samplers.tuning.arrays import Floats
from samplers.tuning.candidates import Schedule
from samplers.tuning.omega import Omega
from samplers.tuning.pool import Equivalent


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Mean over prompts of what is won over best-of-N, with its t-interval.

    Attributes:
        mean: in units of the reward.
        standard_error: of the mean; prompts are the sample.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    standard_error: float
    low: float
    high: float

    @classmethod
    def of(cls, gains: Floats, confidence: float) -> Gain:
        """From one gain per prompt, float `(prompts,)`, at least two."""
        mean, error = float(gains.mean()), standard_error(gains)
        reach = float(student.ppf((1 + confidence) / 2, len(gains) - 1)) * error
        return cls(mean=mean, standard_error=error, low=mean - reach, high=mean + reach)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do at a budget.

    Attributes:
        checkpoints: the schedule; empty where pruning is not worth it.
        reason: why, one sentence.
        num_candidates: of the recommended search.
        cost: its exact cost per prompt.
        best_of_n: candidates that best-of-N affords.
        best_of_n_reward: its mean reward, exact.
        gain: held-out gain of schedules chosen in the same way without the prompt they are
            measured on; None where no fold found any.
        equivalent: candidates that best-of-N needs for the held-out reward.
        omega: held-out area over budgets around, or None where the pool is too small for it.
        chosen: the schedule chosen without each fold; empty for none.
        skipped: schedules left out because they need more images than were recorded.
    """

    checkpoints: Schedule
    reason: str
    num_candidates: int
    cost: float
    best_of_n: int
    best_of_n_reward: float
    gain: Gain | None
    equivalent: Equivalent
    omega: Omega | None
    chosen: tuple[Schedule, ...]
    skipped: int

    @property
    def prunes(self) -> bool:
        """Whether a schedule is recommended."""
        return bool(self.checkpoints)


def standard_error(values: Floats) -> float:
    """Of the mean of `values` `(prompts,)`; infinite with fewer than two."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
