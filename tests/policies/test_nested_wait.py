from __future__ import annotations

import numpy as np
import pytest
from policy_cases import INF, Asked, Request, decoding, law

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.segments import equal_mass_boundaries, nested_thresholds

LAW = law([4, 10, 30], [0.5, 0.3, 0.2])
NEW = Request(8)
AT_4, AT_10 = decoding(4), decoding(10)  # in the boundary queues of segments 2 and 3


def nested(max_wait=INF, thresholds=(3, 2, 1)):
    return Asked(
        {
            "policy": "nested_wait",
            "boundaries": [4, 10, 30],
            "thresholds": list(thresholds),
            "max_wait": max_wait,
        },
        LAW,
    )


def test_nothing_below_the_first_threshold():
    assert nested()([NEW] * 2, [AT_4, AT_4, AT_10, decoding(2)]) == ([0, 0, 0, 0], [], INF)


def test_served_are_the_segments_up_to_the_first_that_lacks_requests():
    """Segment 1 has its 3, segment 2 only 1 of 2: segment 3 pauses although its own queue is full."""
    decision = nested()([NEW] * 4, [decoding(2), AT_4, decoding(6), AT_10, decoding(20)])
    assert decision.tokens == [1, 0, 0, 0, 0]
    assert decision.admitted == [(0, 8), (1, 8), (2, 8)]


def test_all_segments():
    """At most n_k of every stage: 2 of the 3 in the queue of segment 2, and 1 of the 2 in that of segment 3."""
    decision = nested()([NEW] * 3, [AT_4, AT_4, AT_4, decoding(6), AT_10, AT_10, decoding(20)])
    assert decision.tokens == [1, 1, 0, 1, 1, 0, 1]


def test_requests_inside_a_segment_do_not_open_it():
    assert nested()([NEW] * 3, [AT_4, decoding(5), decoding(6)]).tokens == [0, 0, 0]


def test_patience():
    ask = nested(max_wait=0.5)
    assert ask([Request(8, arrival=1.0)], now=1.25) == ([], [], 1.5)
    assert ask([Request(8, arrival=1.0)], now=1.5).admitted == [(0, 8)]
    paused = decoding(6, arrival=1.0, service=1.0)  # in segment 2, so that 1 and 2 are served
    decision = ask([Request(8, arrival=2.4)], [decoding(1, arrival=2.4), paused, AT_10._replace(arrival=2.4)], now=2.5)
    assert decision.tokens == [1, 1, 0]
    assert decision.admitted == [(0, 8)]


def test_draining_serves_everybody():
    decision = nested()([NEW], [AT_4, AT_10, decoding(20)], draining=True)
    assert decision.tokens == [1, 1, 1]
    assert decision.admitted == [(0, 8)]


def test_memory():
    assert nested()([NEW] * 3, free=2).admitted == [(0, 8), (1, 8)]
    assert nested()([NEW] * 3, free=2, watermark=1).admitted == [(0, 8)]


def test_fluid_thresholds_and_quantile_boundaries():
    ask = Asked({"policy": "nested_wait", "segments": 2}, LAW, rate=20.0)
    cuts = equal_mass_boundaries(LAW, 2)
    assert ask.knobs.boundaries.tolist() == cuts.tolist()
    assert ask.knobs.thresholds.tolist() == nested_thresholds(LAW, 20.0, cuts, 0.01, 1e-7, 16_000).n.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boundaries": [4, 4, 30], "thresholds": [1, 1, 1]}, "must be increasing"),
        ({"boundaries": [], "thresholds": [1]}, "must be increasing"),
        ({"boundaries": [4, 29], "thresholds": [1, 1]}, "nearest valid last boundary: 30"),
        ({"boundaries": [4, 30], "thresholds": [1]}, "need 2 whole numbers >= 1"),
        ({"boundaries": [4, 30], "thresholds": [1, 0]}, "need 2 whole numbers >= 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Asked({"policy": "nested_wait", **settings}, LAW)


def test_outputs_end_with_the_last_segment():
    ask = nested()
    assert ask.policy.longest_output(ask.knobs, np.zeros(2, dtype=np.int64)).tolist() == [30, 30]
