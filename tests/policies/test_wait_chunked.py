from __future__ import annotations

import numpy as np
import pytest
from policy_cases import INF, Asked, Request, decoding, law

from fluidwait.base.errors import ConfigError

NEW = Request(40)
TWO_SEGMENTS = law([20, 50], [0.7, 0.3])


def chunked(lengths=None, **settings):
    """One segment of 20 stages, 40 in service: a cap of 40 and a quota of 2 requests per batch; the paper's quotas."""
    defaults = {"in_service": 40, "boundaries": [20], "chunk": 16, "margin": 0.0, "max_wait": INF, "quotas": "paper"}
    return Asked({"policy": "wait_chunked", **defaults, **settings}, lengths or law([20]))


def test_the_papers_example():
    """Segments 1..20 and 21..50, continuation 0.3, 30 in service: caps 21 and 9, n_1 = 30 / (20 + 30 * 0.3)."""
    knobs = chunked(TWO_SEGMENTS, in_service=30, boundaries=[20, 50]).knobs
    assert knobs.caps.tolist() == [21, 9]
    assert knobs.quota == pytest.approx([30 / 29, 9 / 29])


def test_quotas_from_the_mean_life_have_room():
    """Mean output 29 and 29 in service: a flow of 1 and .3; as many enter as may leave or get past 20 in a batch."""
    knobs = chunked(TWO_SEGMENTS, in_service=29, boundaries=[20, 50], quotas="mean_life").knobs
    assert knobs.in_service == 29
    assert knobs.flow == pytest.approx([1.0, 0.3])
    assert knobs.quota == pytest.approx([2.296, 1.217], abs=1e-3)
    assert knobs.caps.tolist() == [22, 15]  # prompts of one chunk: one request in prefill, and one that is cut short


def test_the_flow_opens_the_gate_and_the_quota_lets_in():
    """One waiting request is the flow of a batch; of five, two may enter: the first terms of 1 and 2.296 per batch."""
    settings = {"in_service": 29, "boundaries": [20, 50], "quotas": "mean_life"}
    assert len(chunked(TWO_SEGMENTS, **settings)([NEW], [decoding(3)]).admitted) == 1
    assert len(chunked(TWO_SEGMENTS, **settings)([NEW] * 5, [decoding(3)]).admitted) == 2


def test_a_given_cap_bounds_segments_with_room():
    knobs = chunked(TWO_SEGMENTS, in_service=6, boundaries=[20, 50], quotas="mean_life").knobs
    assert knobs.in_service == 6
    assert max(knobs.caps) <= 6


def test_the_gate_closes_below_the_entry_quota():
    assert chunked()([NEW], [decoding(3)]) == ([0], [], INF)


def test_the_gate_opens_at_the_entry_quota():
    decision = chunked()([NEW] * 5, [decoding(3)])
    assert decision.tokens == [1]
    assert decision.admitted == [(0, 16), (1, 16)]


def test_the_gate_opens_when_the_segment_is_full():
    decision = chunked(in_service=20)([], [decoding(3)] * 20)
    assert decision.tokens == [1] * 20


def test_without_the_gate():
    decision = chunked(gate=False)([NEW], [decoding(3)])
    assert decision.tokens == [1]
    assert decision.admitted == [(0, 16)]


def test_without_the_gate_the_quota_holds_all_the_same():
    """Nobody waits for company, but no more than the quota enter a batch: docs and rule say the same."""
    ask = chunked(gate=False, in_service=20)
    quota = int(np.ceil(ask.knobs.quota[0]))
    assert len(ask([NEW] * (quota + 4), [decoding(3)]).admitted) <= quota < quota + 4
    assert len(ask([NEW], [decoding(3)]).admitted) == 1


def test_draining_opens_every_segment():
    decision = chunked(TWO_SEGMENTS, boundaries=[20, 50])([NEW], [decoding(3), decoding(30)], draining=True)
    assert decision.tokens == [1, 1]
    assert len(decision.admitted) == 1


def test_patience():
    ask = chunked(max_wait=0.5)
    lone = Request(40, arrival=1.0)
    assert ask([lone], now=1.25) == ([], [], 1.5)
    assert ask([lone], now=1.5).admitted == [(0, 16)]
    paused = decoding(3, arrival=1.0, service=2.0)
    assert ask([], [paused], now=3.25) == ([0], [], 3.5)
    assert ask([], [paused], now=3.5).tokens == [1]


def test_segments_open_independently():
    """Segment 2 is full (cap 9) and runs; segment 1 lacks requests and pauses."""
    ask = chunked(TWO_SEGMENTS, in_service=60, boundaries=[20, 50])
    assert ask.knobs.caps.tolist() == [41, 19]
    assert ask.knobs.quota[0] > 2
    decision = ask([NEW], [decoding(5)] + [decoding(30)] * 19)
    assert decision.tokens == [0] + [1] * 19
    assert decision.admitted == []


def test_entry_to_a_later_segment():
    """A quota of 0.31 lets nobody past the boundary in most batches; an empty segment lets one in."""
    ask = chunked(TWO_SEGMENTS, in_service=30, boundaries=[20, 50], gate=False)
    at_boundary = decoding(20)
    assert ask([], [at_boundary, at_boundary]).tokens == [1, 0]
    entered = 0
    for _ in range(29):
        entered += sum(ask([], [decoding(21), at_boundary, at_boundary]).tokens[1:])
    assert entered == 9  # 29 * 9/29, the batch above was the first of the even sequence
    full = [decoding(30)] * 9
    assert ask([], [*full, at_boundary]).tokens == [1] * 9 + [0]


def test_entry_quotas_add_up():
    """30/29 requests per batch: 30 in 29 batches, one or two in each."""
    ask = chunked(TWO_SEGMENTS, in_service=30, boundaries=[20, 50], gate=False)
    admitted = [len(ask([NEW] * 5, [decoding(3)]).admitted) for _ in range(29)]
    assert sum(admitted) == 30
    assert set(admitted) == {1, 2}


def test_a_batch_that_does_not_run_does_not_count():
    ask = chunked(TWO_SEGMENTS, in_service=30, boundaries=[20, 50])
    before = ask.memory[:2].copy()
    assert ask(free=0) == ([], [], INF)
    assert ask([NEW], free=0).admitted == []
    assert ask.memory[:2].tolist() == before.tolist()
    ask([NEW])
    assert ask.memory[:2].tolist() == [1, 0]


def test_caps_on_admissions():
    assert len(chunked(in_service=20, gate=False)([NEW] * 5, [decoding(3)] * 20).admitted) == 0
    two = chunked(TWO_SEGMENTS, in_service=60, boundaries=[20, 50], gate=False)
    assert len(two([NEW] * 5, [decoding(3)] * 40).admitted) == 1  # room for one in segment 1 (cap 41)
    assert len(two([NEW] * 5, [decoding(3)] * 39 + [decoding(30)] * 21).admitted) == 0  # 60 in service


def test_every_prefill_gets_a_chunk():
    """Requests in prefill belong to segment 1; at most ``chunk`` tokens each, the last chunk is what is missing."""
    residents = [Request(40, cached=16, held=3), Request(40, cached=32, held=3), decoding(2)]
    assert chunked(gate=False)([], residents).tokens == [16, 8, 1]


def test_batch_tokens_bound_the_prefills():
    residents = [Request(40, cached=16, held=3), decoding(2), Request(40, cached=8, held=3)]
    decision = chunked(gate=False, batch_tokens=20)([NEW], residents)
    assert decision.tokens == [16, 1, 3]
    assert decision.admitted == []
    assert chunked(gate=False, batch_tokens=20)([NEW] * 3, [decoding(2)]).admitted == [(0, 16), (1, 3)]


def test_memory_and_watermark():
    ask = chunked(gate=False)
    assert ask([NEW], free=2).admitted == []  # 40 tokens need 3 blocks
    assert ask([NEW], free=3).admitted == [(0, 16)]
    assert ask([NEW], free=3, watermark=1).admitted == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"boundaries": [20, 50], "in_service": 1}, "in_service"),
        ({"boundaries": [20, 40]}, "nearest valid last boundary: 50"),
        ({"boundaries": None, "segments": 3}, "segments"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        chunked(TWO_SEGMENTS, **settings)
