"""What best-of-n gives on average, exactly, from a pool of finished candidates per prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gensift.errors import ConfigError
from samplers.tuning.arrays import Floats


@dataclass(frozen=True)
class Equivalent:
    """How many candidates best-of-N needs for some mean reward.

    Attributes:
        count: interpolated between whole numbers; the bound when the pool does not reach.
        relation: "=" when the pool holds the answer, ">" when the reward is above what the whole
            pool gives (more than `count`), "<" when a single candidate already gives more.
    """

    count: float
    relation: Literal["=", ">", "<"] = "="

    def __str__(self) -> str:
        if self.relation == ">":
            return f"more than {self.count:g}, the size of the pool"
        return "less than 1" if self.relation == "<" else f"{self.count:.1f}"


def best_of_n_curve(pool: Floats, most: int | None = None) -> Floats:
    """The expected best of n candidates drawn without replacement, for n = 1, 2, ... at once.

    Sorted ascending, value i of N is the best of n with probability C(i-1, n-1) / C(N, n). From one
    n to the next this grows by (i-n)(n+1) / (n(N-n)), so no factorial is needed and nothing
    overflows. Accumulated in float64.

    Args:
        pool: finite float `(prompts, images)`.
        most: the largest n; by default all images.

    Returns:
        float64 `(prompts, most)`; column n-1 is the best of n.

    Raises:
        ConfigError: `pool` is not such an array, or `most` exceeds it.

    Source: order statistics of draws without replacement; no Monte Carlo.
    """
    values = np.sort(np.asarray(pool, dtype=np.float64), axis=-1)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise ConfigError(
            f"a pool of shape {values.shape} was given; give finite scores (prompts, images)."
        )
    size = values.shape[1]
    most = size if most is None else most
    if not 1 <= most <= size:
        raise ConfigError(f"the best of {most} was asked for; the pool has {size} images.")
    curve = np.empty((len(values), most))
    place = np.arange(1, size + 1, dtype=np.float64)
    chance = np.full(size, 1 / size)
    for n in range(1, most + 1):
        curve[:, n - 1] = values @ chance
        if n < size:
            chance *= np.maximum(place - n, 0) * ((n + 1) / (n * (size - n)))
    return curve


def equivalent_count(curve: Floats, reward: float) -> Equivalent:
    """The n at which a mean best-of-n curve reaches `reward`.

    Args:
        curve: float `(most,)`, the mean over prompts of `best_of_n_curve`, which never falls.
        reward: the mean reward to reach.
    """
    if reward > curve[-1]:
        return Equivalent(float(len(curve)), ">")
    if reward < curve[0]:
        return Equivalent(1.0, "<")
    return Equivalent(float(np.interp(reward, curve, np.arange(1, len(curve) + 1))))
