"""Adjusted noise levels against ERTACache's rule as printed, and by their invariants."""

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from caches.planning.timesteps import adjusted_sigmas
from gensift.errors import ConfigError

Floats = NDArray[np.float64]


def random_case(seed: int) -> tuple[Floats, list[int], Floats]:
    """Sigmas from anywhere up to 15 (not only flow), updates, and shares from 0.05 up."""
    random = np.random.default_rng(seed)
    steps = int(random.integers(1, 40))
    lengths = random.uniform(0.01, 1, steps)
    sigmas = np.append(lengths[::-1].cumsum()[::-1], 0) * random.uniform(0.1, 1.5)
    updates = [0, *np.flatnonzero(random.random(steps) < 0.5).tolist()]
    return sigmas, updates, random.uniform(0.05, 1, steps)


def test_a_uniform_grid_follows_the_printed_rule() -> None:
    for seed in range(20):
        _, updates, phi = random_case(seed)
        steps = len(phi)
        lengths: list[float] = []
        # As printed, with lengths in multiples of 1 / T: dt_c = (1 - sum of dt) / (1 - i / T).
        for i in range(steps):
            computed = (1 - sum(lengths)) / (1 - i / steps) / steps
            lengths.append(computed if i in updates else computed * phi[i])
        lengths[-1] = 1 - sum(lengths[:-1])
        expected = 1 - np.append(0, np.cumsum(lengths))
        found = adjusted_sigmas(np.linspace(1, 0, steps + 1), updates, phi)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_any_grid_stretches_what_remains_in_proportion() -> None:
    for seed in range(50):
        sigmas, updates, phi = random_case(seed)
        lengths = -np.diff(sigmas)
        for i in range(len(phi) - 1):
            if i not in updates:
                lengths[i] *= phi[i]
            lengths[i + 1 :] *= (sigmas[0] - lengths[: i + 1].sum()) / lengths[i + 1 :].sum()
        found = adjusted_sigmas(sigmas, updates, phi)
        np.testing.assert_allclose(found, sigmas[0] - np.append(0, lengths.cumsum()), atol=1e-12)


def test_levels_fall_strictly_between_the_same_ends() -> None:
    for seed in range(50):
        sigmas, updates, phi = random_case(seed)
        found = adjusted_sigmas(sigmas, updates, phi)
        assert found[0] == sigmas[0] and found[-1] == 0
        assert (np.diff(found) < 0).all()
        # Shorter steps leave every later level at least as noisy as it was.
        assert (found >= sigmas * (1 - 1e-12)).all()


def test_nothing_changes_bit_for_bit_when_phi_is_1_or_all_is_computed() -> None:
    for seed in range(50):
        sigmas, updates, phi = random_case(seed)
        np.testing.assert_array_equal(adjusted_sigmas(sigmas, updates, np.ones_like(phi)), sigmas)
        unread = np.full_like(phi, np.nan)
        np.testing.assert_array_equal(adjusted_sigmas(sigmas, range(len(phi)), unread), sigmas)


def test_levels_before_the_first_shortened_step_stay_bit_for_bit() -> None:
    sigmas = np.append(np.geomspace(14.6, 0.03, 10), 0)
    found = adjusted_sigmas(sigmas, [0, 1, 2, 3], np.full(10, 0.5))
    np.testing.assert_array_equal(found[:5], sigmas[:5])
    assert (found[5:-1] > sigmas[5:-1]).all()


@pytest.mark.parametrize("phi", [0.0, 1e-18])
def test_steps_without_length_are_exact_and_warn(phi: float) -> None:
    sigmas = np.linspace(1, 0, 7) ** 2
    with pytest.warns(UserWarning, match=r"phi is 0 at steps \[2, 3\], .*; drop them from the run"):
        found = adjusted_sigmas(sigmas, [0, 1, 4], np.full(6, phi))
    assert found[2] == found[3] == found[4] > found[5]
    assert found[-1] == 0


@pytest.mark.filterwarnings("ignore:phi is 0")
def test_rounding_never_makes_levels_rise() -> None:
    sigmas = np.linspace(1, 0, 51) ** 2
    for phi in np.linspace(4e-16, 7e-16, 50):
        assert (np.diff(adjusted_sigmas(sigmas, [0, 7, 8], np.full(50, phi))) <= 0).all()


def test_the_last_step_ends_at_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = adjusted_sigmas([1.0, 0.6, 0.0], [0], [0.5, 0.0])
    np.testing.assert_array_equal(found, [1.0, 0.6, 0.0])


@pytest.mark.parametrize(
    "sigmas", [[0.0], [1.0, 0.5], [1.0, 1.0, 0.0], [0.0, 1.0], [np.inf, 0.0], [1.0, np.nan, 0.0]]
)
def test_levels_that_do_not_fall_to_zero_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"sigmas \[.*\] were given; give finite noise levels"):
        adjusted_sigmas(sigmas, [0], np.ones(len(sigmas) - 1))


def test_schedules_and_shares_that_do_not_fit_are_refused() -> None:
    sigmas = [1.0, 0.5, 0.2, 0.0]
    with pytest.raises(ConfigError, match=r"phi of shape \(2,\) was given; give one for each of 3"):
        adjusted_sigmas(sigmas, [0], [1.0, 1.0])
    with pytest.raises(ConfigError, match=r"`updates` is \(1,\); add step 0"):
        adjusted_sigmas(sigmas, [1], np.ones(3))
    with pytest.raises(ConfigError, match=r"`updates` holds \[3\]"):
        adjusted_sigmas(sigmas, [0, 3], np.ones(3))
    with pytest.raises(ConfigError, match=r"steps \[1, 2\] is \[1\.5, nan\]; give shares in"):
        adjusted_sigmas(sigmas, [0], [9.0, 1.5, np.nan])
