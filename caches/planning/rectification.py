"""ERTACache's error rectification as what it is: linear regression of the error on the output.

The paper predicts the error of a reused output v by sigmoid(K v + B), with K and B from the closed
form of sigmoid(z) ~ z/4 + 1/2. That is least squares, error ~ a v + b. Putting the same K and B
into a true sigmoid instead would add a bias: no error at all maps to sigmoid(-2) = 0.12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gensift.errors import ConfigError

Floats = NDArray[np.float64]
Granularity = Literal["none", "scalar", "channel"]
_LARGEST_SLOPE = 0.5
# Below this share of the mean square, a variance from float64 sums is rounding.
_LEAST_VARIATION = 1e-12


@dataclass(eq=False)
class Moments:
    """Running sums over samples of a reused output v and its error e, for each channel.

    Attributes:
        count: values summed in each channel.
        sums: float64 `(5, channels)`, the sums of v, e, v^2, v e and e^2.
    """

    count: int
    sums: Floats

    @classmethod
    def empty(cls, channels: int) -> Moments:
        """No samples yet; `channels` is 1 or more.

        Raises:
            ConfigError: there are no channels.
        """
        if channels < 1:
            raise ConfigError(f"{channels} channels were asked for; give 1 or more.")
        return cls(0, np.zeros((5, channels)))

    def add(self, reused: ArrayLike, error: ArrayLike) -> None:
        """Take in more samples, in float64.

        Args:
            reused: finite float `(channels, values)`, the output of a reused step.
            error: the same shape, `reused` minus what the model would have computed.

        Raises:
            ConfigError: the arrays are not like that.
        """
        v, e = np.asarray(reused, dtype=np.float64), np.asarray(error, dtype=np.float64)
        channels = self.sums.shape[1]
        if v.ndim != 2 or v.shape != e.shape or len(v) != channels:
            raise ConfigError(
                f"outputs of shape {v.shape} and errors of shape {e.shape} were given; "
                f"give both as ({channels}, values)."
            )
        sums = np.stack([term.sum(axis=1) for term in (v, e, v * v, v * e, e * e)])
        if not np.isfinite(sums).all():
            raise ConfigError("outputs or errors with NaN or infinity were given; leave them out.")
        self.sums = self.sums + sums
        self.count += v.shape[1]

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of samples together.

        Raises:
            ConfigError: the numbers of channels differ.
        """
        _require_same_channels(self, other)
        return Moments(self.count + other.count, self.sums + other.sums)

    def pooled(self) -> Moments:
        """The moments of all channels taken as one."""
        return Moments(self.count * self.sums.shape[1], self.sums.sum(axis=1, keepdims=True))

    def means(self) -> Floats:
        """float64 `(5, channels)`, the means of v, e, v^2, v e and e^2.

        Raises:
            ConfigError: there are no samples.
        """
        if self.count == 0:
            raise ConfigError("moments of 0 samples were given; add some before they are used.")
        return self.sums / self.count


@dataclass(frozen=True, eq=False)
class Rectification:
    """A correction of a reused output v: subtract slope * v + offset.

    Attributes:
        granularity: one slope for all channels, one for each, or no correction.
        slope: float64 `(channels,)`, or `(1,)` unless per channel; a in the paper's terms.
        offset: the same shape; b in the paper's terms.
        held_out_error: mean squared error on held-out samples, corrected.
        uncorrected_error: the same without correction.
    """

    granularity: Granularity
    slope: Floats
    offset: Floats
    held_out_error: float
    uncorrected_error: float


def fit(moments: Moments, ridge: float = 1e-4) -> tuple[Floats, Floats]:
    """The slope a and offset b that predict the error best, as a v + b, for each channel.

    a = cov(v, e) / (var(v) + ridge * mean(v^2)), limited to at most 0.5 either way, and
    b = mean(e) - a mean(v). One fit for all channels is that of `moments.pooled()`.

    Args:
        moments: of the samples to fit.
        ridge: holds the slope down in channels that hardly vary, as a share of their mean square,
            at least 0. The default changes the slope of centred outputs by a ten-thousandth.

    Returns:
        a and b, float64 `(channels,)`.

    Raises:
        ConfigError: there are no samples, or `ridge` is negative or not finite.

    Source: ERTACache (arXiv 2508.21091), explicit error rectification, linear form.
    """
    if not 0 <= ridge < np.inf:
        raise ConfigError(f"`ridge` is {ridge}; give a finite number of at least 0, such as 1e-4.")
    v, e, vv, ve, _ = moments.means()
    variance = vv - v * v
    slope = np.zeros_like(v)
    varies = variance > _LEAST_VARIATION * vv
    np.divide(ve - v * e, variance + ridge * vv, out=slope, where=varies)
    slope = slope.clip(-_LARGEST_SLOPE, _LARGEST_SLOPE)
    return slope, e - slope * v


def residual_error(moments: Moments, slope: ArrayLike, offset: ArrayLike) -> Floats:
    """The mean squared error that correcting by slope * v + offset leaves, for each channel.

    It follows from the moments alone, so that held-out samples need not be kept.

    Args:
        moments: of the samples to judge on.
        slope: float `(channels,)`, or one number for all channels.
        offset: likewise.

    Returns:
        float64 `(channels,)`; without correction (0 and 0) the mean squared error itself.

    Raises:
        ConfigError: there are no samples, or the numbers of channels differ.
    """
    a, b = np.asarray(slope, dtype=np.float64), np.asarray(offset, dtype=np.float64)
    v, e, vv, ve, ee = moments.means()
    if not {a.shape, b.shape} <= {(), (1,), v.shape}:
        raise ConfigError(
            f"slopes of shape {a.shape} and offsets of shape {b.shape} were given; "
            f"give one number, or one for each of {len(v)} channels."
        )
    left: Floats = ee + a * a * vv + b * b + 2 * (a * b * v - a * ve - b * e)
    # Rounding can leave a perfect fit just below 0.
    return left.clip(min=0.0)


def choose_rectification(fitted: Moments, held_out: Moments, ridge: float = 1e-4) -> Rectification:
    """No correction, one for all channels, or one for each: what leaves least held-out error.

    The simpler one is taken when errors tie, so nothing is corrected unless the error shrinks.

    Args:
        fitted: moments of the samples to fit.
        held_out: moments of other samples with the same channels, to judge on.
        ridge: see `fit`.

    Raises:
        ConfigError: one has no samples, their channels differ, or `ridge` is invalid.
    """
    _require_same_channels(fitted, held_out)
    candidates: dict[Granularity, tuple[Floats, Floats]] = {
        "none": (np.zeros(1), np.zeros(1)),
        "scalar": fit(fitted.pooled(), ridge),
        "channel": fit(fitted, ridge),
    }
    errors = {
        name: float(residual_error(held_out, *candidate).mean())
        for name, candidate in candidates.items()
    }
    best = min(errors, key=errors.__getitem__)
    return Rectification(best, *candidates[best], errors[best], errors["none"])


def _require_same_channels(one: Moments, other: Moments) -> None:
    channels = one.sums.shape[1], other.sums.shape[1]
    if channels[0] != channels[1]:
        raise ConfigError(
            f"moments of {channels[0]} and {channels[1]} channels were given; "
            "use those of equally many."
        )
