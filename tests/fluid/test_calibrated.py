from __future__ import annotations

import math

import numpy as np
import pytest
from fluid_laws import CAPACITY, D0, D1, SINGLE, TOY, law, laws
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time, linear
from fluidwait.fluid.calibrated import calibrated_boundary, calibrated_equilibrium, life_sums
from fluidwait.fluid.equilibrium import boundary, equilibrium

# 1 s for up to 4 tokens, 3 s for up to 8, then 0.1 s per token; one token per request of TOY in serving semantics
STAIRS = linear(0.0, 0.0)._replace(compute=np.array([0.0, 1, 1, 1, 1, 3, 3, 3, 3]), compute_slope=0.1)


def live(prompt: int, output: int, chunk: int | None, semantics: str) -> list[int]:
    """One request's life, iteration by iteration: the nine sums of life_sums."""
    tokens = kv = prefills = prefill_tokens = squares = context = decodes = read = stages = cached = 0
    if semantics == "decode":
        cached, output = prompt - 1, output + 1  # the first decode takes the prompt's last token
    while semantics != "decode" and cached < prompt:
        c = min(chunk or prompt, prompt - cached)
        tokens, prefills, prefill_tokens, stages = tokens + c, prefills + 1, prefill_tokens + c, stages + 1
        squares, context = squares + c * c, context + c * cached
        cached += c
        kv += cached
    for _ in range(output if semantics == "paper" else output - 1):
        cached += 1
        tokens, decodes, stages, read, kv = tokens + 1, decodes + 1, stages + 1, read + cached, kv + cached
    return [tokens, kv, prefills, prefill_tokens, squares, context, decodes, read, stages]


@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.none() | st.integers(1, 70),
    st.sampled_from(["serving", "decode", "paper"]),
)
def test_life_sums_follow_a_request_through_its_iterations(prompt, output, chunk, semantics):
    sums = life_sums(law([prompt], [output]), chunk, semantics)
    assert [float(s[0]) for s in sums] == live(prompt, output, chunk, semantics)


@settings(deadline=None)
@given(laws(), st.floats(0.01, 0.99))
def test_whole_prompts_paper_semantics_and_a_linear_model_give_the_paper(law, load):
    rate = load * boundary(law, D0, D1, math.inf)
    found = calibrated_equilibrium(law, rate, linear(D0, D1), semantics="paper")
    expected = equilibrium(law, rate, D0, D1)
    assert found.iteration_time == pytest.approx(expected.iteration_time, rel=1e-7)
    assert found.memory == pytest.approx(expected.memory, rel=1e-7)
    assert found.in_service == pytest.approx(expected.in_service.sum(), rel=1e-7)
    edge = calibrated_boundary(law, linear(D0, D1), 1000.0, semantics="paper")
    assert edge.rate == edge.saturated_rate == pytest.approx(boundary(law, D0, D1, 1000.0))
    assert edge.binding == "memory"


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [
        (2.0, 1.0),
        (4.0, 1.0),  # the end of the first stair
        (4.5, 4.0),  # beyond the table: x = 4.5 (3 + 0.1 (x - 8)) = 18, which is also a whole number
        (4.2, 3.8),  # in the middle of the stair of 16 tokens: x = 4.2 * (3 + 0.1 * 8) = 15.96
    ],
)
def test_equilibrium_on_a_staircase_by_hand(rate, seconds):
    found = calibrated_equilibrium(TOY, rate, STAIRS)
    assert found.feasible
    assert found.iteration_time == pytest.approx(seconds)
    assert found.requests == pytest.approx(rate * seconds)
    assert (found.tokens, found.memory, found.in_service) == pytest.approx((rate * seconds,) * 3)


def test_reasons_of_an_infeasible_equilibrium():
    steep = STAIRS._replace(compute_slope=0.25)
    found = calibrated_equilibrium(TOY, 4.5, steep)  # 4.5 * 0.25 > 1: no batch catches up
    assert (found.reason, found.feasible, found.iteration_time) == ("time", False, math.inf)
    for limit, reason in (("capacity", "memory"), ("token_budget", "budget"), ("cap", "cap")):
        assert calibrated_equilibrium(TOY, 3.0, STAIRS, **{limit: 2.9}).reason == reason
        assert calibrated_equilibrium(TOY, 3.0, STAIRS, **{limit: 3.0}).feasible


@pytest.mark.parametrize(
    ("limits", "rate", "binding", "saturated"),
    [
        ({}, 4.0, "time", 8 / 3),
        ({"token_budget": 3}, 3.0, "budget", 3.0),
        ({"token_budget": 4}, 4.0, "budget", 4.0),
        ({"token_budget": 5}, 4.0, "time", 5 / 3),
        ({"cap": 2}, 2.0, "cap", 2.0),
        ({"capacity": 3.0}, 3.0, "memory", 3.0),
        ({"capacity": 3.0, "cap": 2}, 2.0, "cap", 2.0),
    ],
)
def test_boundary_on_a_staircase_by_hand(limits, rate, binding, saturated):
    found = calibrated_boundary(TOY, STAIRS, **({"capacity": 8.0} | limits))
    assert found.rate == pytest.approx(rate)
    assert found.binding == binding
    assert found.saturated_rate == pytest.approx(saturated)


@st.composite
def staircases(draw) -> TimeModel:
    steps = draw(st.lists(st.floats(0, 0.05), min_size=1, max_size=30))
    return linear(draw(st.floats(1e-3, 0.1)), draw(st.floats(0, 1e-3)))._replace(
        compute=np.cumsum([0.0, *steps]),
        compute_slope=draw(st.floats(0, 0.05)),
        prefill_request=draw(st.floats(0, 1e-2)),
        decode_launch=draw(st.floats(0, 1e-2)),
        decode_context=draw(st.floats(0, 1e-3)),
    )


def _tau(model, law, requests, chunk):
    """The iteration time of ``requests`` per iteration, from the mean sums."""
    sums = [float(law.share @ s) * requests for s in life_sums(law, chunk)]
    return iteration_time(model, BatchSums(math.ceil(sums[0] * (1 - 1e-9)), *sums[1:8]))


@settings(max_examples=60, deadline=None)
@given(laws(), staircases(), st.none() | st.integers(1, 5), st.floats(0.05, 0.99))
def test_equilibrium_is_the_least_batch_in_balance(law, model, chunk, share):
    edge = calibrated_boundary(law, model, 500.0, chunk=chunk)
    rate = share * edge.rate
    found = calibrated_equilibrium(law, rate, model, capacity=500.0, chunk=chunk)
    assert found.feasible
    assert _tau(model, law, found.requests, chunk) == pytest.approx(found.iteration_time, rel=1e-6)
    assert found.requests == pytest.approx(rate * found.iteration_time)
    for smaller in np.linspace(0.01, 0.999, 40) * found.requests:
        assert rate * _tau(model, law, smaller, chunk) > smaller * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(laws(), staircases(), st.floats(5, 60), st.floats(3, 60))
def test_no_rate_beyond_the_boundary_has_an_equilibrium(law, model, budget, cap):
    limits = {"capacity": 500.0, "token_budget": budget, "cap": cap}
    edge = calibrated_boundary(law, model, **limits)
    below = calibrated_equilibrium(law, 0.999 * edge.rate, model, **limits)
    above = calibrated_equilibrium(law, 1.001 * edge.rate, model, **limits)
    assert below.feasible
    assert not above.feasible
    assert edge.saturated_rate <= edge.rate
    assert edge.memory <= 500 * (1 + 1e-9)
    assert edge.tokens <= budget * (1 + 1e-9)
    assert edge.in_service <= cap * (1 + 1e-9)
    assert edge.requests / edge.iteration_time == pytest.approx(edge.rate)


def test_full_budget_formula():
    # binding budget: rate = b / (tau(b) * tokens per request), 531 tokens per request of p512d20
    model = linear(0.02, 0.0)._replace(compute=np.array([0.0]), compute_slope=1e-5)
    found = calibrated_boundary(SINGLE, model, CAPACITY, token_budget=512)
    assert found.binding == "budget"
    assert found.rate == found.saturated_rate == pytest.approx(512 / ((0.02 + 512e-5) * 531))


def test_profile_of_the_a100_predicts_the_boundary_of_p512d20():
    # simulated and published boundaries lie at 22..24 requests/s; the paper's two numbers say 190
    hardware = load_hardware("a100-80g_llama-2-7b")
    found = calibrated_boundary(
        SINGLE, hardware.time_model("profile"), hardware.kv_capacity_tokens, token_budget=512, cap=256
    )
    assert 22 < found.saturated_rate <= found.rate < 26
    assert found.memory < 0.2 * hardware.kv_capacity_tokens
    assert boundary(SINGLE, D0, D1, CAPACITY) > 150


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"chunk": 0}, "chunk"),
        ({"semantics": "papr"}, "semantics"),
        ({"token_budget": 0}, "token_budget"),
        ({"cap": 0}, "cap"),
        ({"capacity": -1.0}, "capacity"),
    ],
)
def test_numbers_outside_their_range_are_named(options, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        calibrated_equilibrium(TOY, 1.0, STAIRS, **options)


def test_boundary_needs_a_finite_capacity():
    with pytest.raises(ConfigError, match="^capacity: must be finite"):
        calibrated_boundary(TOY, STAIRS, math.inf)
