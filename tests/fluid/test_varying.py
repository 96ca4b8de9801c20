from __future__ import annotations

import numpy as np
import pytest
from fluid_laws import TOY, law, laws
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.fluid import (
    Infeasible,
    continuation_sup,
    peak_arrivals,
    varying_thresholds,
    wait_thresholds,
    window_arrivals,
)

START, RATES = np.array([0.0, 10.0, 20.0]), np.array([1.0, 3.0, 0.5])


def test_window_arrivals_by_hand():
    assert window_arrivals(START, RATES, 8.0, 4.0) == pytest.approx(2 * 1 + 2 * 3)
    assert window_arrivals(START, RATES, np.array([0.0, 19.0, 100.0]), 4.0) == pytest.approx([4.0, 4.5, 2.0])
    assert window_arrivals(START, RATES, -1.0, 3.0) == pytest.approx(2.0)  # nothing before the start
    assert window_arrivals(START, RATES, 0.0, 30.0) == pytest.approx(10 + 30 + 5)
    by_type = np.array([[1.0, 0.0], [3.0, 2.0], [0.5, 0.0]])
    assert window_arrivals(START, by_type, 8.0, 4.0) == pytest.approx([8.0, 4.0])


def test_peak_by_hand():
    assert peak_arrivals(START, RATES, 4.0) == pytest.approx(12.0)
    assert peak_arrivals(START, RATES, 12.0) == pytest.approx(30 + 2)
    assert peak_arrivals(START, RATES, 25.0) == pytest.approx(10 + 30 + 2.5)


@given(
    st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
    st.data(),
    st.floats(0.01, 20),
    st.floats(-20, 40),
)
def test_no_window_has_more_than_the_peak(lengths, data, h, t):
    rates = np.array(data.draw(st.lists(st.floats(0, 9), min_size=len(lengths), max_size=len(lengths))))
    start = np.cumsum(lengths)
    assert window_arrivals(start, rates, t, h) <= peak_arrivals(start, rates, h) * (1 + 1e-9) + 1e-9
    assert peak_arrivals(start, rates, h) <= rates.max() * h * (1 + 1e-9)


def test_largest_continuation_is_that_of_one_piece():
    lengths = law([1, 1, 1], [2, 5, 9], [1, 1, 1])
    rates = np.array([[6.0, 3.0, 1.0], [1.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    # beyond 2: 4/10 and 3/4; beyond 5 of those: 1/4 and 2/3
    assert continuation_sup(lengths, rates, [2, 5, 9]) == pytest.approx([3 / 4, 2 / 3])


def test_constant_rates_give_the_thresholds_of_constant_rates():
    lengths = law([1, 2], [1, 1], [2, 1])
    constant = wait_thresholds(lengths, 1.5, 1.0, 0.1, 100.0)
    found = varying_thresholds(lengths, [0.0, 5.0], [[1.0, 0.5], [1.0, 0.5]], 1.0, 0.1, 100.0)
    assert found.n.tolist() == constant.n.tolist() == [3, 2]
    assert found.slack == pytest.approx(constant.slack)


def test_a_short_burst_needs_less_than_its_rate_for_ever():
    # burst of rate 4 (load 1.2, unstable for ever) that lasts 1 s: 4 + (Delta T - 1) arrivals at most
    found = varying_thresholds(TOY, [0.0, 10.0, 11.0], [[1.0], [4.0], [1.0]], 1.0, 0.1, 100.0)
    n = int(found.n[0])
    assert n >= 4 + (found.iteration_time - 1)
    assert n - 1 < 4 + (1 + 0.3 * (n - 1) - 1)
    with pytest.raises(Infeasible):
        wait_thresholds(TOY, 4.0, 1.0, 0.1, 100.0)


@settings(max_examples=40, deadline=None)
@given(laws(), st.floats(0.01, 0.2), st.floats(1, 3))
def test_thresholds_cover_the_peak(law, rate, factor):
    rates = rate * law.share * np.array([[1.0], [factor]])
    found = varying_thresholds(law, [0.0, 3.0], rates, 1.0, 1e-3, 1e5)
    assert np.all(found.n >= peak_arrivals([0.0, 3.0], rates, found.iteration_time) * (1 - 1e-9))


def test_peak_that_does_not_fit_is_named():
    with pytest.raises(Infeasible) as caught:
        varying_thresholds(TOY, [0.0], [[4.0]], 1.0, 0.1, 100.0)
    assert caught.value.reason == "memory"


@pytest.mark.parametrize(
    ("start", "rates", "h"),
    [([0.0, 0.0], [1, 2], 1), ([0.0], [1, 2], 1), ([0.0], [-1], 1), ([0.0], [1], -1), ([], [], 1)],
)
def test_bad_rates_are_refused(start, rates, h):
    with pytest.raises(ConfigError, match="^(rates|window): "):
        window_arrivals(np.array(start), np.array(rates, dtype=float), 0.0, h)


def test_capacity_must_be_finite():
    with pytest.raises(ConfigError, match="^capacity: must be finite"):
        varying_thresholds(TOY, [0.0], [[1.0]], 1.0, 0.1, np.inf)
