"""Exponents and intervals against data whose law is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fluidwait.base.errors import FluidwaitError
from fluidwait.stats.exponents import exact_proportion, fit_exponent, log_slope
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.measure import horizons
from fluidwait.studies.overflow import quantile_interval

X = np.geomspace(1e2, 1e5, 7)


@given(exponent=st.floats(-2, 2), factor=st.floats(1e-3, 1e3))
def test_an_exact_power_law_gives_its_exponent(exponent, factor):
    assert log_slope(X, factor * X**exponent) == pytest.approx(exponent, abs=1e-9)


def noisy(rng, exponent: float, runs: int = 60) -> np.ndarray:
    """Runs with gamma noise that is shared along a run, as the noise of one simulated run is."""
    shared = rng.gamma(2.0, 0.5, size=(runs, 1)) * rng.gamma(4.0, 0.25, size=(runs, len(X)))
    return 3.0 * X**exponent * shared


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5])
def test_the_interval_covers_the_true_exponent_about_as_often_as_it_says(exponent):
    rng, covered, trials = np.random.default_rng(1), 0, 40
    for _ in range(trials):
        found = fit_exponent(X, noisy(rng, exponent), 3.0, seed=1)
        assert found.low < found.value < found.high
        covered += found.low <= exponent <= found.high
    assert covered >= binom.ppf(1e-4, trials, 0.93)  # the percentile bootstrap covers a little less than 95 %


def test_only_the_last_decades_are_fitted():
    kinked = np.where(X < 1e4 * (1 - 1e-9), 1.0, (X / 1e4) ** 0.5)
    values = np.tile(kinked, (3, 1))
    found = fit_exponent(X, values, 1.0, seed=1)
    assert (found.value, found.decades) == pytest.approx((0.5, 1.0))
    assert fit_exponent(X, values, 9.0, seed=1).decades == pytest.approx(3.0)
    assert fit_exponent(X, values, 9.0, seed=1).value < 0.4


def test_the_same_seed_gives_the_same_interval_and_one_run_gives_none():
    values = noisy(np.random.default_rng(2), -0.5)
    assert fit_exponent(X, values, 3.0, seed=7) == fit_exponent(X, values, 3.0, seed=7)
    single = fit_exponent(X, values[:1], 3.0, seed=7)
    assert np.isnan(single.low) and np.isnan(single.high) and np.isfinite(single.value)


def test_what_cannot_be_fitted_is_one_line():
    with pytest.raises(FluidwaitError, match="two horizons"):
        fit_exponent(X, np.ones((3, len(X))), 0.1, seed=1)
    with pytest.raises(FluidwaitError, match="not positive"):
        fit_exponent(X, np.zeros((3, len(X))), 3.0, seed=1)


@pytest.mark.parametrize(("n", "p"), [(20, 0.1), (50, 0.02), (200, 0.5)])
def test_clopper_pearson_covers_at_least_what_it_promises(n, p):
    """Exactly, by summing over all outcomes."""
    inside = [k for k in range(n + 1) if exact_proportion(k, n)[0] <= p <= exact_proportion(k, n)[1]]
    assert binom.pmf(inside, n, p).sum() >= 0.95


def test_no_event_in_n_runs_bounds_the_probability():
    low, high = exact_proportion(0, 4000)
    assert low == 0.0 and high == pytest.approx(1 - 0.025 ** (1 / 4000))


def test_a_quantile_interval_covers_the_quantile():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(300):
        low, high = quantile_interval(np.sort(rng.random(200)), 0.9)[1:]
        covered += low <= 0.9 <= high
    assert covered >= binom.ppf(1e-4, 300, 0.95)
    assert quantile_interval(np.sort(rng.random(200)), 0.999) is None


def test_a_mean_interval_is_the_t_interval():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))[:3]
    assert (mean, high - mean) == pytest.approx((2.0, 4.302652729911275 / np.sqrt(3)))
    assert mean - low == pytest.approx(high - mean)
    assert np.isnan(mean_interval(np.array([1.0]))[1])


@given(first=st.floats(1, 1e3), decades=st.floats(0.1, 4), per_decade=st.integers(1, 5))
def test_horizons_increase_from_the_first_to_the_last(first, decades, per_decade):
    last = first * 10**decades
    found = horizons(first, last, per_decade)
    assert found[0] == first and found[-1] == pytest.approx(last)
    assert np.all(np.diff(found) > 0) and np.all(found[1:] / found[:-1] <= 10 ** (1 / per_decade) * (1 + 1e-9))
