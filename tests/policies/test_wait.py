from __future__ import annotations

import numpy as np
import pytest
from policy_cases import INF, Asked, Request, decoding, law

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.thresholds import wait_thresholds

ONE = Request(8)
TWO = Request(12, kind=1)


def two_types(max_wait=INF):
    return Asked({"policy": "wait", "thresholds": [2, 3], "max_wait": max_wait}, law([5, 9], [0.5, 0.5]))


def test_a_type_below_its_threshold_waits_and_its_residents_pause():
    decision = two_types()([ONE], [decoding(1), decoding(2)])
    assert decision == ([0, 0], [], INF)


def test_an_eligible_type_is_served_at_every_stage():
    """Threshold 2: two from the queue, two from each stage, the first in order; the other type pauses."""
    residents = [decoding(1), decoding(1), decoding(1), decoding(2), decoding(4), decoding(1, kind=1)]
    decision = two_types()([ONE, TWO, ONE, ONE], residents)
    assert decision.tokens == [1, 1, 0, 1, 1, 0]
    assert decision.admitted == [(0, 8), (2, 8)]


def test_types_are_independent():
    decision = two_types()([TWO, TWO, TWO], [decoding(1), decoding(1, kind=1)])
    assert decision.tokens == [0, 1]
    assert decision.admitted == [(0, 12), (1, 12), (2, 12)]


def test_counters_start_over_at_every_decision():
    ask = two_types()
    first = ask([ONE, ONE], [decoding(1)] * 3)
    assert first.tokens == [1, 1, 0]
    assert ask([ONE, ONE], [decoding(1)] * 3) == first


def test_memory_stops_admissions():
    ask = two_types()
    assert ask([ONE, ONE], free=1).admitted == [(0, 8)]
    assert ask([ONE, ONE], free=2, watermark=1).admitted == [(0, 8)]
    full = Request(prompt=16, cached=16, generated=1)
    assert ask([ONE, ONE], [full], free=2).admitted == [(0, 8)]


def test_patience_of_a_waiting_request():
    ask = two_types(max_wait=0.5)
    early = Request(8, arrival=1.0)
    assert ask([early], now=1.25) == ([], [], 1.5)  # ask again when its patience ends
    assert ask([early], now=1.5).admitted == [(0, 8)]


def test_patience_of_a_paused_resident_counts_time_outside_batches():
    ask = two_types(max_wait=0.5)
    paused = decoding(1, arrival=1.0, service=2.0)
    assert ask([], [paused], now=3.25) == ([0], [], 3.5)
    assert ask([], [paused], now=3.5).tokens == [1]
    assert ask([], [paused, decoding(1, kind=1, arrival=3.4)], now=3.5).tokens == [1, 0]


def test_draining_serves_everybody():
    decision = two_types()([ONE], [decoding(1), decoding(1, kind=1)], draining=True)
    assert decision.tokens == [1, 1]
    assert decision.admitted == [(0, 8)]


def test_fluid_thresholds():
    lengths = law([20], prompt=512)
    ask = Asked({"policy": "wait"}, lengths, rate=30.0)
    assert ask.knobs.thresholds.tolist() == wait_thresholds(lengths, 30.0, 0.01, 1e-7, 16_000).n.tolist()


@pytest.mark.parametrize("thresholds", [[2], [2, 3, 4], [2, 0], []])
def test_one_threshold_per_type(thresholds):
    with pytest.raises(ConfigError, match="wait: thresholds: need 2 whole numbers >= 1"):
        Asked({"policy": "wait", "thresholds": thresholds}, law([5, 9], [0.5, 0.5]))


def test_stages_end_at_the_output_of_the_type():
    """One counter per stage: an output that is not the type's own would count in another's."""
    ask = two_types()
    assert ask.policy.longest_output(ask.knobs, np.array([0, 1, 0])).tolist() == [5, 9, 5]
