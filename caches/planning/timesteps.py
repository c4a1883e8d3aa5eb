"""ERTACache's timestep adjustment: shorter steps where a reused output misleads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caches.planning.positions import checked_positions
from gensift.errors import ConfigError

Floats = NDArray[np.float64]


def adjusted_sigmas(sigmas: ArrayLike, updates: Iterable[int], phi: ArrayLike) -> Floats:
    """The noise levels of a run whose reused steps are shortened to a share phi of their length.

    A computed step keeps its length, and a reused step i has phi[i] of it. After each step, what is
    left of the way down to 0 is shared by the remaining steps in proportion to their original
    lengths. The last step ends at 0 whatever its phi. On a uniform grid this is ERTACache's rule,
    the remaining interval over the number of remaining steps. The same noise levels result, bit for
    bit, when phi is 1. All later steps happen at other noise levels, of which the model must know.

    Args:
        sigmas: float `(steps + 1,)`, strictly falling, the last 0.
        updates: steps that are computed, 0 among them.
        phi: float `(steps,)` in [0, 1] at reused steps; the rest is ignored and may be NaN.

    Returns:
        float64 `(steps + 1,)`, strictly falling except where a phi of 0 (to rounding) leaves a step
        no length; that warns, since such a step is wasted. First and last are as given.

    Raises:
        ConfigError: an argument is not as described.

    Source: ERTACache (arXiv 2508.21091), trajectory-aware timestep adjustment; the generalisation
    to grids that are not uniform is ours.
    """
    given = _checked_sigmas(sigmas)
    steps = len(given) - 1
    shares = _checked_shares(phi, updates, steps)
    adjusted = given.copy()
    for i in range(steps - 1):
        # Where the whole step would lead, with the rest of the grid stretched to what is left.
        # The ratio comes first: it is exactly 1 until a step is shortened.
        whole = adjusted[i] / given[i] * given[i + 1]
        reached = (1 - shares[i]) * adjusted[i] + shares[i] * whole
        # Rounding may raise the sum by a unit in the last place when phi is as small as that.
        adjusted[i + 1] = min(reached, adjusted[i])
    empty = np.flatnonzero(adjusted[:-1] == adjusted[1:])
    if empty.size:
        warnings.warn(
            f"phi is 0 at steps {empty.tolist()}, which leaves them no length: they change "
            "nothing; drop them from the run, compute them, or give a larger phi.",
            stacklevel=2,
        )
    return adjusted


def _checked_sigmas(sigmas: ArrayLike) -> Floats:
    given = np.array(sigmas, dtype=np.float64)
    is_falling = given.ndim == 1 and len(given) > 1 and bool((np.diff(given) < 0).all())
    if not is_falling or given[-1] != 0 or not np.isfinite(given[0]):
        raise ConfigError(
            f"sigmas {given.tolist()} were given; "
            "give finite noise levels that fall strictly and end in 0."
        )
    return given


def _checked_shares(phi: ArrayLike, updates: Iterable[int], steps: int) -> Floats:
    """`(steps,)`: phi at reused steps, 1 at computed ones."""
    shares = np.array(phi, dtype=np.float64)
    if shares.shape != (steps,):
        raise ConfigError(f"phi of shape {shares.shape} was given; give one for each of {steps}.")
    computed = checked_positions("updates", updates, steps)
    if 0 not in computed:
        raise ConfigError(f"`updates` is {computed}; add step 0, which has nothing to reuse.")
    shares[list(computed)] = 1.0
    outside = ~((shares >= 0) & (shares <= 1))
    if outside.any():
        raise ConfigError(
            f"phi at reused steps {np.flatnonzero(outside).tolist()} is "
            f"{shares[outside].tolist()}; give shares in [0, 1]."
        )
    return shares
