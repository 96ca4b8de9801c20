from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.safety import base_memory, required_memory, stage_work, theta, theta_bound


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.45, 0.4999])
def test_theta_in_closed_form(p):
    # n_prev = 2, n_k = 1: (1 - p + p x)^2 = x has the roots 1 and ((1 - p) / p)^2 in x = e^theta
    assert theta(1, 2, p) == pytest.approx(2 * math.log((1 - p) / p), rel=1e-9)


@given(st.integers(2, 2000), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_theta_solves_its_equation_and_exceeds_its_bound(n_prev, p, between):
    n_k = n_prev * (p + between * (1 - p))
    assume(n_prev * p < n_k < n_prev)
    root = theta(n_k, n_prev, p)
    assert root >= theta_bound(n_k, n_prev, p) > 0
    # relative to the two terms that cancel
    grown = n_prev * float(math.log1p(p * math.expm1(root)) if root < 500 else root + math.log(p))
    assert grown == pytest.approx(root * n_k, rel=1e-9)


def test_theta_grows_with_the_threshold():
    roots = [theta(n, 100, 0.3) for n in (31, 35, 50, 80, 99)]
    assert roots == sorted(roots)
    assert roots[0] == pytest.approx(theta_bound(31, 100, 0.3), rel=0.2)


def test_no_overflow_is_possible_when_a_batch_brings_no_more_than_it_takes():
    assert theta(10, 10, 0.5) == theta(11, 10, 1.0) == theta(1, 10, 0.0) == math.inf


@pytest.mark.parametrize(("n_k", "p"), [(3, 0.3), (2, 0.3), (9.9, 1.0), (5, -0.1), (5, 1.1), (5, math.nan)])
def test_theta_needs_a_queue_that_drifts_down(n_k, p):
    with pytest.raises(ConfigError, match="n_k > n_prev"):
        theta(n_k, 10, p)


def test_memory_terms_by_hand():
    # segment 1: stages 0..20, segment 2: stages 21..50, prompt 512
    assert stage_work([20, 50], 512).tolist() == [
        sum(512 + s for s in range(21)),
        sum(512 + s for s in range(21, 51)),
    ]
    found = required_memory([2, 1], [0.3], [20, 50], 512, horizon=99.0, risk=0.01, d0=1.0)
    assert found.base == base_memory([2, 1], [20, 50], 512) == 2 * 10962 + 16425
    assert found.queue == 532.0
    assert found.buffer == pytest.approx(532 * math.log(2 * 100 / 0.01) / (2 * math.log(7 / 3)))
    assert found.total == pytest.approx(found.base + found.queue + found.buffer)


def test_one_segment_needs_no_buffer():
    found = required_memory([3], [], [50], 512, horizon=100.0, risk=0.1, d0=1.0)
    assert found == (3 * 51 * 537.0, 0.0, 0.0)


def test_prompts_by_segment():
    found = required_memory([2, 1], [0.3], [20, 50], [100, 200], horizon=99.0, risk=0.01, d0=1.0)
    assert found.base == 2 * 21 * 110 + 30 * 235.5
    assert found.queue == 220.0


def test_buffer_grows_logarithmically_in_horizon_and_risk():
    def buffer(horizon, risk):
        return required_memory([60, 30, 20], [0.3, 0.5], [20, 50, 90], 10, horizon=horizon, risk=risk, d0=1e-6).buffer

    steps = [buffer(10.0**k, 1e-3) for k in range(4)] + [buffer(1e3, 10.0 ** (-3 - k)) for k in range(1, 4)]
    differences = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert differences == pytest.approx([differences[0]] * 6, rel=1e-6)


@pytest.mark.parametrize("options", [{"risk": 0.0}, {"risk": 1.0}, {"horizon": 0.0}, {"d0": 0.0}])
def test_numbers_outside_their_range_are_refused(options):
    with pytest.raises(ConfigError, match="^safety: "):
        required_memory([2, 1], [0.3], [20, 50], 512, **({"horizon": 99.0, "risk": 0.01, "d0": 1.0} | options))
