"""vLLM's rule with a batch of the fluid model and a little memory left free, on views made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import Asked, Request, decoding

from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import TimeModel, linear
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context
from fluidwait.policies.fluid_budget import end_of_tile, engine_limits
from fluidwait.workload import LengthLaw

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
ask = Asked({"policy": "fluid_budget", "batch_tokens": 50, "max_requests": 4})  # 16,000 KV tokens: 50 blocks free
free_of_reserve = Asked({"policy": "fluid_budget", "batch_tokens": 50, "max_requests": 4, "watermark": 0.0})


def test_running_requests_in_admission_order_share_the_batch():
    half = Request(prompt=100, cached=51, held=7)
    decision = ask([Request(10)], [half, decoding(3), decoding(3)])
    assert decision.tokens == [49, 1, 0]
    assert decision.admitted == []


def test_admissions_take_what_is_left_and_nobody_is_held():
    decision = ask([Request(30), Request(30)], [decoding(3)])
    assert decision.tokens == [1]
    assert decision.admitted == [(0, 30), (1, 19)]
    assert decision.wake == float("inf")
    assert ask([Request(10)]).admitted == [(0, 10)]


def test_no_decode_waits_for_tokens():
    crowd = Asked({"policy": "fluid_budget", "batch_tokens": 2, "max_requests": 9})
    assert crowd([Request(10)], [decoding(3)] * 5).tokens == [1] * 5


def test_admissions_leave_the_reserve_free_unless_nothing_runs():
    """16,000 tokens, 5 % of them: 50 blocks of 16."""
    assert ask([Request(32)], [decoding(2)], free=52).admitted == [(0, 32)]
    assert ask([Request(32)], [decoding(2)], free=51).admitted == []
    assert ask([Request(32)], [decoding(2)], free=60, watermark=59).admitted == []
    assert ask([Request(32), Request(16)], free=2).admitted == [(0, 32)]
    assert ask([Request(32)], free=1).admitted == []
    assert free_of_reserve([Request(32)], [decoding(2)], free=2).admitted == [(0, 32)]


def test_request_cap_and_no_admission_in_a_step_with_an_eviction():
    assert ask([Request(1)] * 9, [decoding(1)] * 3).admitted == [(0, 1)]
    decision = ask([Request(10)], [decoding(3)], evicted=1)
    assert (decision.tokens, decision.admitted) == ([1], [])


def batch(rate=1.0, time_model: TimeModel = A100, prompt=512, output=20, capacity=135_168, **settings) -> int:
    law = LengthLaw(np.array([float(prompt)]), np.array([float(output)]), np.ones(1))
    policy = load_policy({"policy": "fluid_budget", **settings})
    return policy.prepare(Context(law, rate, time_model, (0.01, 1e-7), capacity, True)).batch_tokens


def test_fluid_batch_on_the_a100():
    assert (batch(12.0), batch(22.0), batch(25.0)) == (256, 384, 768)  # of 2,048: the boundary is at 25.9/s
    assert batch(12.0, token_budget=200) == 200
    assert batch(12.0, least_tokens=1000) == 1024
    assert batch(15.0, headroom=2.0) > batch(15.0, headroom=1.0)
    assert batch(1.0, prompt=64, output=1000, capacity=16_000) == 256  # memory for few: at least this


def test_the_batch_grows_with_the_load_until_it_is_full():
    """40 ms a batch and 20 µs a token: 2,048 tokens in 81 ms carry 47 requests of 531 tokens a second, fewer less."""
    dear = linear(0.04, 0.0)._replace(compute=np.zeros(1), compute_slope=20e-6)
    sizes = [batch(rate, dear) for rate in (5.0, 20.0, 30.0, 36.0)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2] < sizes[3] < 2048
    for rate, tokens in zip((20.0, 30.0, 36.0), sizes[1:], strict=True):
        assert tokens / (0.04 + 20e-6 * tokens) / 531 >= 1.1 * rate  # such a batch carries it
    assert batch(500.0, dear) == 2048  # no smaller one carries as much


@pytest.mark.parametrize(("tokens", "end"), [(1, 64), (64, 64), (65, 128), (128, 128), (129, 256), (300.5, 384)])
def test_tiles(tokens, end):
    assert end_of_tile(tokens) == end


def test_what_vllm_is_told():
    knobs = load_policy({"policy": "fluid_budget", "batch_tokens": 384}).prepare(
        Context(None, 0.0, None, (0.0, 0.0), 16_000, True)
    )
    assert engine_limits(knobs, 16) == (384, 50)
