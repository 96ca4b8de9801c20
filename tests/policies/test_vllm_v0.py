from __future__ import annotations

from policy_cases import INF, Asked, Request, decoding

ask = Asked({"policy": "vllm_v0", "max_requests": 4, "token_cap": 50})


def test_prefills_have_priority_and_a_batch_of_their_own():
    decision = ask([Request(30)], [decoding(2), decoding(5)])
    assert decision.tokens == [0, 0]
    assert decision.admitted == [(0, 30)]


def test_decodes_run_when_no_prompt_fits():
    full = ask([Request(30)], [decoding(2)] * 4)
    assert (full.tokens, full.admitted) == ([1, 1, 1, 1], [])
    short = ask([Request(30)], [decoding(2)], free=1)
    assert (short.tokens, short.admitted) == ([1], [])
    assert ask([], [decoding(2)]).tokens == [1]


def test_whole_prompts_up_to_the_token_cap():
    assert ask([Request(20), Request(30), Request(1)]).admitted == [(0, 20), (1, 30)]
    assert ask([Request(20), Request(31), Request(1)]).admitted == [(0, 20)]
    assert ask([Request(51)]).admitted == []
    assert ask.policy.longest_prompt(ask.knobs) == 50


def test_watermark():
    assert ask([Request(16), Request(16)], free=3, watermark=2).admitted == [(0, 16)]


def test_an_evicted_request_does_not_come_straight_back():
    decision = ask([Request(16)], [decoding(2)], evicted=1)
    assert (decision.tokens, decision.admitted) == ([1], [])


def test_nothing_to_do():
    assert ask() == ([], [], INF)


def test_a_request_prefilled_elsewhere_joins_the_decodes():
    came = Request(30, cached=29, held=0)
    decision = ask([came, came, came], [decoding(2), decoding(5)])
    assert (decision.tokens, decision.admitted) == ([1, 1], [(0, 1), (1, 1)])
    assert ask([came], [decoding(2)] * 4).admitted == []
    assert ask([came], [decoding(2)], evicted=1).admitted == []
    ordered = ask([Request(30), came], [decoding(2)])  # an evicted one prefills here, first
    assert (ordered.tokens, ordered.admitted) == ([0], [(0, 30)])
    waits = ask([came, Request(30)], [decoding(2)])
    assert (waits.tokens, waits.admitted) == ([1], [(0, 1)])


def test_a_joining_request_leaves_room_for_the_decodes():
    came, full = Request(16, cached=15, held=0), decoding(17)  # a decode whose two blocks are full
    assert ask([came], [full], free=2).admitted == [(0, 1)]
    assert ask([came], [full], free=1).admitted == []
