from __future__ import annotations

from policy_cases import Asked, Request, decoding

ask = Asked({"policy": "vllm_v1", "token_budget": 50, "max_requests": 4})


def test_running_requests_in_admission_order_share_the_budget():
    """Unlike in Sarathi a running prefill that comes earlier goes before later decodes."""
    half = Request(prompt=100, cached=51, held=7)
    decision = ask([Request(10)], [half, decoding(3), decoding(3)])
    assert decision.tokens == [49, 1, 0]
    assert decision.admitted == []


def test_admissions_take_what_is_left():
    decision = ask([Request(30), Request(30)], [decoding(3)])
    assert decision.tokens == [1]
    assert decision.admitted == [(0, 30), (1, 19)]


def test_request_cap_memory_and_watermark():
    assert ask([Request(1)] * 9, [decoding(1)] * 3).admitted == [(0, 1)]
    assert ask([Request(32)], free=1).admitted == []
    assert ask([Request(32)], free=2).admitted == [(0, 32)]
    assert ask([Request(32)], free=2, watermark=1).admitted == []


def test_no_admission_in_a_step_with_an_eviction():
    decision = ask([Request(10)], [decoding(3)], evicted=1)
    assert (decision.tokens, decision.admitted) == ([1], [])
