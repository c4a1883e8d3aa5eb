"""Rectification from moments against the same arithmetic on raw samples."""

import numpy as np
import pytest
from numpy.typing import NDArray

from caches.planning.rectification import Moments, choose_rectification, fit, residual_error
from gensift.errors import ConfigError

Floats = NDArray[np.float64]


def samples(seed: int, channels: int = 4, values: int = 500) -> tuple[Floats, Floats]:
    """Outputs off centre, and errors that depend on them differently in each channel."""
    random = np.random.default_rng(seed)
    v = random.normal(size=(channels, values)) * random.uniform(0.5, 2, (channels, 1)) + 0.7
    slopes = random.uniform(-0.3, 0.3, (channels, 1))
    return v, slopes * v + 0.1 + 0.05 * random.normal(size=v.shape)


def moments_of(v: Floats, e: Floats) -> Moments:
    moments = Moments.empty(len(v))
    moments.add(v, e)
    return moments


def test_moments_are_means_of_the_samples() -> None:
    v, e = samples(0)
    expected = [x.mean(axis=1) for x in (v, e, v**2, v * e, e**2)]
    np.testing.assert_allclose(moments_of(v, e).means(), expected, rtol=1e-13)


def test_adding_in_parts_and_merging_equal_all_samples_at_once() -> None:
    v, e = samples(1)
    whole = moments_of(v, e)
    parts = moments_of(v[:, :100], e[:, :100])
    parts.add(v[:, 100:300], e[:, 100:300])
    first = Moments(parts.count, parts.sums.copy())
    merged = parts + moments_of(v[:, 300:], e[:, 300:])
    assert merged.count == whole.count == 500
    np.testing.assert_allclose(merged.sums, whole.sums, rtol=1e-13)
    # Merging leaves both sides as they were.
    assert parts.count == first.count == 300
    np.testing.assert_array_equal(parts.sums, first.sums)


def test_single_precision_samples_are_summed_in_double() -> None:
    v = np.full((1, 10_000), 0.1, dtype=np.float32)
    moments = moments_of(v, v)  # type: ignore[arg-type]
    np.testing.assert_allclose(moments.means()[2:], float(v[0, 0]) ** 2, rtol=1e-14)


def test_pooled_moments_are_those_of_one_channel() -> None:
    v, e = samples(2)
    pooled, flat = moments_of(v, e).pooled(), moments_of(v.reshape(1, -1), e.reshape(1, -1))
    assert pooled.count == flat.count
    np.testing.assert_allclose(pooled.sums, flat.sums, rtol=1e-13)


def test_the_fit_is_least_squares() -> None:
    v, e = samples(3)
    slope, offset = fit(moments_of(v, e), ridge=0)
    expected = [np.polyfit(x, y, 1) for x, y in zip(v, e, strict=True)]
    np.testing.assert_allclose(np.stack([slope, offset], axis=1), expected, rtol=1e-10)


def test_residual_error_needs_no_samples() -> None:
    v, e = samples(4)
    cases: list[tuple[Floats | float, Floats | float]] = [
        (np.full(4, 0.2), np.arange(4.0)),
        (0.3, -0.1),
        (np.zeros(1), 0.0),
    ]
    for slope, offset in cases:
        expected = (e.T - (slope * v.T + offset)).T ** 2
        found = residual_error(moments_of(v, e), slope, offset)
        np.testing.assert_allclose(found, expected.mean(axis=1), rtol=1e-11)


def test_a_perfect_fit_leaves_no_error_and_never_less() -> None:
    v, _ = samples(5, channels=50)
    moments = moments_of(v, 0.1 * v - 0.3)
    left = residual_error(moments, *fit(moments, ridge=0))
    assert (left >= 0).all() and (left < 1e-14).all()


def test_the_linear_form_corrects_and_a_true_sigmoid_does_harm() -> None:
    random = np.random.default_rng(0)
    v = random.normal(size=(1, 200_000))
    e = 0.1 * v - 0.03 + 0.02 * random.normal(size=v.shape)
    moments = moments_of(v, e)
    slope, offset = fit(moments)
    # The paper's coefficients, K and B, in the paper's formula.
    sigmoid = 1 / (1 + np.exp(-(4 * slope[:, None] * v + 4 * (offset[:, None] - 0.5))))
    rms = {
        "none": np.sqrt(residual_error(moments, 0, 0)),
        "linear": np.sqrt(residual_error(moments, slope, offset)),
        "sigmoid": np.sqrt(np.mean((e - sigmoid) ** 2, axis=1)),
    }
    assert {name: round(float(x[0]), 3) for name, x in rms.items()} == {
        "none": 0.106,
        "linear": 0.02,
        "sigmoid": 0.157,
    }


def test_slopes_are_limited_and_the_offset_follows() -> None:
    v, _ = samples(6)
    slope, offset = fit(moments_of(v, np.array([[2.0], [-2.0], [0.4], [0.6]]) * v + 1))
    np.testing.assert_allclose(slope, [0.5, -0.5, 0.4, 0.5], rtol=1e-3)
    centre = np.array([2.0, -2.0, 0.4, 0.6]) * v.mean(axis=1) + 1
    np.testing.assert_allclose(offset, centre - slope * v.mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3.4558, 8.2161, 1e5])
def test_a_constant_output_gives_no_slope(constant: float) -> None:
    e = np.random.default_rng(0).normal(size=(1, 999)) + 3
    slope, offset = fit(moments_of(np.full((1, 999), constant), e), ridge=0)
    assert slope == 0
    np.testing.assert_allclose(offset, e.mean(), rtol=1e-12)


def test_ridge_shrinks_the_slope_by_a_known_factor() -> None:
    v = np.array([[-3.0, 3.0, -3.0, 3.0]])
    slope, offset = fit(moments_of(v, 0.4 * v + 0.2), ridge=0.25)
    np.testing.assert_allclose([slope, offset], [[0.4 / 1.25], [0.2]], rtol=1e-14)


def split(v: Floats, e: Floats, at: int) -> tuple[Moments, Moments]:
    return moments_of(v[:, :at], e[:, :at]), moments_of(v[:, at:], e[:, at:])


def test_channels_with_slopes_of_their_own_are_fitted_apart() -> None:
    fitted, held_out = split(*samples(7, values=2000), 1000)
    chosen = choose_rectification(fitted, held_out)
    assert chosen.granularity == "channel"
    assert chosen.slope.shape == chosen.offset.shape == (4,)
    expected = residual_error(held_out, chosen.slope, chosen.offset).mean()
    assert chosen.held_out_error == expected < chosen.uncorrected_error


def test_channels_alike_but_scarce_are_fitted_together() -> None:
    random = np.random.default_rng(0)
    v = random.normal(size=(64, 1000))
    fitted, held_out = split(v, 0.2 * v + 0.1 * random.normal(size=v.shape), 6)
    chosen = choose_rectification(fitted, held_out)
    assert chosen.granularity == "scalar"
    assert chosen.slope.shape == chosen.offset.shape == (1,)
    assert chosen.held_out_error < chosen.uncorrected_error


def test_nothing_is_corrected_unless_held_out_error_shrinks() -> None:
    v, e = samples(8)
    chosen = choose_rectification(moments_of(v, e), moments_of(v, -e))
    assert chosen.granularity == "none"
    assert chosen.slope == chosen.offset == 0
    assert chosen.held_out_error == chosen.uncorrected_error == pytest.approx(np.mean(e**2))
    # No error, nothing to gain: the tie goes to no correction.
    exact = moments_of(v, np.zeros_like(v))
    assert choose_rectification(exact, exact).granularity == "none"


def test_one_channel_takes_the_simpler_of_two_equal_fits() -> None:
    fitted, held_out = split(*samples(9, channels=1), 250)
    assert choose_rectification(fitted, held_out).granularity == "scalar"


def test_samples_that_do_not_fit_are_refused() -> None:
    moments = Moments.empty(3)
    for v, e in [
        (np.ones(3), np.ones(3)),
        (np.ones((3, 2)), np.ones((3, 1))),
        (np.ones((2, 4)),) * 2,
    ]:
        with pytest.raises(ConfigError, match=r"shape .* were given; give both as \(3, values\)"):
            moments.add(v, e)
    with pytest.raises(ConfigError, match="NaN or infinity were given; leave them out"):
        moments.add(np.full((3, 1), np.inf), np.ones((3, 1)))
    assert moments.count == 0 and not moments.sums.any()


def test_moments_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 channels were asked for; give 1 or more"):
        Moments.empty(0)
    some = moments_of(*samples(0))
    for call in (
        lambda: some + Moments.empty(3),
        lambda: choose_rectification(some, Moments.empty(1)),
    ):
        with pytest.raises(ConfigError, match=r"moments of 4 and . channels were given; use those"):
            call()
    for empty in (
        lambda: fit(Moments.empty(4)),
        lambda: residual_error(Moments.empty(4), 0, 0),
        lambda: choose_rectification(some, Moments.empty(4)),
    ):
        with pytest.raises(ConfigError, match="moments of 0 samples were given; add some"):
            empty()


def test_coefficients_and_ridges_that_do_not_fit_are_refused() -> None:
    some = moments_of(*samples(0))
    with pytest.raises(ConfigError, match=r"slopes of shape \(3,\) .* each of 4 channels"):
        residual_error(some, np.ones(3), 0)
    for ridge in (-1.0, np.inf, np.nan):
        with pytest.raises(ConfigError, match=r"`ridge` is .*; give a finite number of at least 0"):
            fit(some, ridge)
