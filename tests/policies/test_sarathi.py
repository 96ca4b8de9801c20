from __future__ import annotations

from policy_cases import INF, Asked, Request, decoding

ask = Asked({"policy": "sarathi", "token_budget": 50, "max_requests": 4})


def test_decodes_first_then_the_running_prefill_then_new_ones():
    half = Request(prompt=40, cached=20, held=3)
    decision = ask([Request(30), Request(30)], [half, decoding(3)])
    assert decision.tokens == [20, 1]
    assert decision.admitted == [(0, 29)]  # 50 - 1 - 20
    assert decision.wake == INF


def test_a_prefill_takes_what_the_budget_leaves():
    decision = ask([Request(9)], [decoding(1), Request(prompt=100, cached=10, held=7)])
    assert decision.tokens == [1, 49]
    assert decision.admitted == []


def test_prompts_share_the_budget_in_order():
    assert ask([Request(20), Request(20), Request(20)]).admitted == [(0, 20), (1, 20), (2, 10)]


def test_request_cap():
    assert ask([Request(1)] * 9, [decoding(1)] * 3).admitted == [(0, 1)]
    assert ask([Request(1)] * 9, [decoding(1)] * 4).admitted == []


def test_memory_for_the_whole_prompt_and_the_watermark():
    """The budget lets in 50 tokens only, but 100 tokens need 7 blocks of 16."""
    assert ask([Request(100)], free=6).admitted == []
    assert ask([Request(100)], free=7).admitted == [(0, 50)]
    assert ask([Request(100)], free=7, watermark=1).admitted == []


def test_decodes_that_need_a_block_leave_less_for_admissions():
    full = Request(prompt=16, cached=16, generated=1)  # its next token needs a new block
    roomy = Request(prompt=17, cached=17, generated=1)
    assert ask([Request(16)], [full], free=1).admitted == []
    assert ask([Request(16)], [roomy], free=1).admitted == [(0, 16)]


def test_first_come_first_served():
    """A short prompt does not overtake a long one that does not fit."""
    assert ask([Request(160), Request(1)], free=9).admitted == []


def test_a_recomputed_request_prefills_what_it_had_generated():
    assert ask([Request(prompt=10, generated=8, goal=18)]).admitted == [(0, 18)]
    again = Request(prompt=10, cached=10, generated=8, goal=18, held=2)
    assert ask([], [again]).tokens == [8]
