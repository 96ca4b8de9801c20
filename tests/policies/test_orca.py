from __future__ import annotations

from policy_cases import Asked, Request, decoding

ask = Asked({"policy": "orca", "max_requests": 4, "max_model_len": 64})


def test_whole_prompts_mixed_with_decodes():
    decision = ask([Request(40), Request(50)], [decoding(3), decoding(9)])
    assert decision.tokens == [1, 1]
    assert decision.admitted == [(0, 40), (1, 50)]


def test_reserves_the_longest_sequence():
    assert ask.policy.reserved_tokens(ask.knobs) == 64
    assert len(ask([Request(1)] * 3, free=11).admitted) == 2  # 4 blocks each


def test_request_cap():
    assert ask([Request(1)] * 9, [decoding(1)] * 3).admitted == [(0, 1)]
    assert ask([Request(1)] * 9, [decoding(1)] * 4).admitted == []
