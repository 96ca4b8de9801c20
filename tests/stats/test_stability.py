"""The stability rule on queues whose boundary is known."""

from __future__ import annotations

import numpy as np
import pytest

from fluidwait.stats.stability import MARGIN, drift, stability_boundary
from queue_laws import batch_server, single_server

N = 5000
SEEDS = 100
BATCH = 32


def is_stable(arrival, completion) -> bool:
    return drift(arrival, completion) <= MARGIN / len(arrival) ** 0.5


def poisson(load, seed, n=N):
    """Arrival times at ``load`` requests/s, of a system that can serve one request/s."""
    return np.cumsum(np.random.default_rng([n, seed]).exponential(1 / load, n))


def serve(system, arrival):
    return single_server(arrival, 1.0) if system == "single" else batch_server(arrival, BATCH, float(BATCH))


def verdicts(system, load, seeds=SEEDS, n=N):
    arrivals = [poisson(load, seed, n) for seed in range(seeds)]
    return np.array([is_stable(a, serve(system, a)) for a in arrivals])


@pytest.mark.parametrize("system", ["single", "batch"])
@pytest.mark.parametrize(
    ("load", "wrong"), [(0.90, 0.0), (0.95, 0.02), (0.98, 0.16), (1.02, 0.42), (1.05, 0.04), (1.10, 0.0)]
)
def test_error_rates_of_single_runs_are_those_of_the_docstring(system, load, wrong):
    judged_wrongly = verdicts(system, load) == (load > 1)
    assert judged_wrongly.mean() <= wrong


@pytest.mark.parametrize("system", ["single", "batch"])
@pytest.mark.parametrize("load", [0.90, 0.95, 0.98, 1.02, 1.05, 1.10])
def test_majority_of_ten_replications_is_right_two_percent_from_the_boundary(system, load):
    stable_runs = verdicts(system, load).reshape(-1, 10).sum(axis=1)
    assert np.all((stable_runs > 5) == (load < 1))


@pytest.mark.parametrize("load", [1.05, 1.1, 1.5, 2.0])
def test_drift_estimates_the_share_left_behind(load):
    drifts = [drift(a, serve("single", a)) for a in (poisson(load, seed) for seed in range(SEEDS))]
    error = np.std(drifts) / SEEDS**0.5
    assert np.mean(drifts) == pytest.approx(1 - 1 / load, abs=4 * error)


def test_noise_at_the_boundary_is_that_of_a_random_walk():
    """A system with a standing backlog at λ = μ: n(t) is the Poisson noise of the arrivals alone."""
    drifts = []
    for seed in range(SEEDS):
        arrival = np.concatenate([np.zeros(N), poisson(1.0, seed)])  # the backlog is there from the start
        completion = single_server(arrival, 1.0)
        drifts.append(drift(arrival[N:], completion[N:] - N))
    assert np.std(drifts) * N**0.5 == pytest.approx((1.2 / 0.75) ** 0.5, rel=0.25)


def test_drift_does_not_depend_on_request_order_or_time_unit():
    arrival = poisson(1.05, 3)
    completion = serve("batch", arrival)
    shuffled = np.random.default_rng(0).permutation(N)
    expected = drift(arrival, completion)
    assert drift(arrival[shuffled], completion[shuffled]) == expected
    assert drift(arrival * 1e-3, completion * 1e-3) == pytest.approx(expected, rel=1e-9)


def test_drift_ignores_the_drain():
    arrival = np.arange(1000.0)
    assert drift(arrival, arrival + 0.5) == pytest.approx(0, abs=1e-3)
    late = arrival + 0.5
    late[-1] += 1e6  # a straggler after the last arrival
    assert drift(arrival, late) == drift(arrival, arrival + 0.5)


def test_margin_is_three_quarters_of_the_inverse_root():
    arrival = np.arange(10_000.0)
    just_below, just_above = (arrival / (1 - c * MARGIN / 100) + 0.1 for c in (0.9, 1.1))
    assert is_stable(arrival, just_below)
    assert not is_stable(arrival, just_above)


def test_drift_rejects_what_has_no_slope():
    with pytest.raises(ValueError, match="eight"):
        drift(np.arange(7.0), np.arange(7.0) + 1)
    with pytest.raises(ValueError, match="spread"):
        drift(np.zeros(100), np.ones(100))


def test_boundary_of_a_grid_of_loads():
    grid = {load: verdicts("batch", load, seeds=10).tolist() for load in (0.8, 0.9, 0.95, 1.05, 1.1)}
    assert stability_boundary(grid) == 0.95


def test_boundary_needs_every_lower_rate_stable_by_a_true_majority():
    assert stability_boundary({14: [True, True], 12: [True, True], 13: [True, False]}) == 12
    assert stability_boundary({12: [True, True, False], 13: [True, False, False], 14: [True] * 3}) == 12
    assert stability_boundary({12: [False], 13: [True]}) is None
    assert stability_boundary({1.5: [True]}) == 1.5


@pytest.mark.parametrize("grid", [{}, {1.0: []}])
def test_boundary_of_nothing_is_an_error(grid):
    with pytest.raises(ValueError, match="replication"):
        stability_boundary(grid)
