"""What an overloaded server carries: exact where the answer is known, and blind to the edges of the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.stats.saturation import carried_share, window_weights
from fluidwait.workload import LengthLaw, Requests


def requests(n: int, rate: float, prompt=10, output=5) -> Requests:
    arrival = np.arange(1, n + 1) / rate
    return Requests(arrival, np.broadcast_to(prompt, n), np.broadcast_to(output, n), np.zeros(n, dtype=np.int64))


@given(st.floats(-100, 100), st.floats(0.1, 50))
def test_the_weights_integrate_to_one_and_vanish_at_the_edges(start, length):
    time = np.linspace(start - length, start + 2 * length, 60_001)
    weights = window_weights(time, start, start + length)
    assert np.sum(weights) * (time[1] - time[0]) == pytest.approx(1, rel=1e-3)
    assert (weights >= 0).all() and weights[0] == weights[-1] == 0


@pytest.mark.parametrize("batch", [1, 30])
def test_a_server_of_known_rate_is_told_whatever_ends_together(batch):
    """80 requests/s are completed of 100 that arrive, one by one or 30 at a time."""
    some = requests(4000, 100.0)
    completion = batch * np.ceil(np.arange(1, 4001) / batch) / 80.0
    assert carried_share(some, completion, lambda law: 100.0) == pytest.approx(0.8, rel=2e-3)


def test_it_is_measured_by_what_the_completed_requests_need():
    """The short half is served first: many completions, but each is worth little."""
    output = np.tile([1, 9], 1000)
    some = requests(2000, 10.0, output=output)
    order = np.argsort(output, kind="stable")
    completion = np.empty(2000)
    completion[order] = np.cumsum(output[order]) / 40.0  # 40 tokens/s; 50 arrive

    def bound(law: LengthLaw) -> float:
        return 40.0 / float(law.share @ law.output)

    assert carried_share(some, completion, bound) == pytest.approx(1.0, rel=1e-2)


def test_a_server_that_completes_nothing_carries_nothing():
    assert carried_share(requests(100, 1.0), np.full(100, 1e6), lambda law: 1.0) == 0.0


def test_arrivals_all_at_once_have_no_window():
    some = requests(10, 1.0)._replace(arrival=np.ones(10))
    with pytest.raises(ValueError, match="spread over time"):
        carried_share(some, np.ones(10), lambda law: 1.0)
