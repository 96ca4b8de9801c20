from __future__ import annotations

import math

import numpy as np
import pytest
from fluid_laws import CAPACITY, D0, D1, LMSYS_WORK, SINGLE, TOY, TWO, laws
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.equilibrium import boundary, equilibrium, kv_work


def test_work_of_one_request_is_the_sum_of_its_tokens_over_its_iterations():
    assert kv_work(TOY).mean == 3.0  # 1 token in the prefill iteration, 2 in the decode
    assert kv_work(SINGLE).mean == sum(512 + s for s in range(21))
    work = kv_work(TWO)
    assert work.per_type.tolist() == [21 * 522.0, 51 * 537.0]
    assert work.mean == pytest.approx(0.7 * 10962 + 0.3 * 27387)


def test_equilibrium_by_hand():
    # W = 2 * 3 = 6, load 0.6, Delta T = 1 / 0.4
    state = equilibrium(TOY, 2.0, d0=1.0, d1=0.1)
    assert state.load == pytest.approx(0.6)
    assert state.iteration_time == pytest.approx(2.5)
    assert state.memory == pytest.approx(15.0)
    assert state.per_stage == pytest.approx([5.0])
    assert state.in_service == pytest.approx([10.0])
    assert state.throughput == 2.0
    assert state.stable


def test_without_arrivals_the_iteration_takes_d0_and_holds_nothing():
    state = equilibrium(TOY, 0.0, d0=1.0, d1=0.1)
    assert (state.iteration_time, state.memory, state.load, state.stable) == (1.0, 0.0, 0.0, True)


@pytest.mark.parametrize("rate", [4.0, 10.0])
def test_at_load_one_and_above_everything_is_infinite(rate):
    state = equilibrium(TOY, rate, d0=1.0, d1=1 / 12)
    assert not state.stable
    assert state.iteration_time == state.memory == state.per_stage[0] == math.inf


@pytest.mark.parametrize(("rate", "memory"), [(50, 34377), (60, 55758), (70, 100327), (80, 250509)])
def test_memory_table_of_the_paper(rate, memory):
    assert equilibrium(LMSYS_WORK, rate, D0, D1).memory == pytest.approx(memory, rel=1e-3)


def test_memory_limit_of_the_paper():
    assert pytest.approx(1.37e5, rel=5e-3) == CAPACITY
    assert boundary(LMSYS_WORK, D0, D1, CAPACITY) == pytest.approx(74.1, rel=2e-3)


def test_boundary_by_hand():
    assert boundary(TOY, 1.0, 0.1, 15.0) == pytest.approx(2.0)
    assert boundary(TOY, 1.0, 0.1, math.inf) == pytest.approx(10 / 3)


@given(laws(), st.floats(0.01, 5), st.floats(1e-3, 1), st.floats(0, 1e-2))
def test_equilibrium_satisfies_flow_balance(law, rate, d0, d1):
    state = equilibrium(law, rate, d0, d1)
    if not state.stable:
        assert d1 * rate * kv_work(law).mean >= 1.0
        return
    assert state.iteration_time == pytest.approx(d0 + d1 * state.memory, rel=1e-6)
    assert state.memory == pytest.approx(kv_work(law).per_type @ state.per_stage, rel=1e-9)
    assert state.per_stage / state.iteration_time == pytest.approx(rate * law.share)


@given(laws(), st.floats(1e-3, 1), st.floats(0, 1e-2), st.floats(10, 1e6))
def test_boundary_is_where_the_equilibrium_fills_the_memory(law, d0, d1, capacity):
    edge = boundary(law, d0, d1, capacity)
    assert equilibrium(law, edge, d0, d1).memory == pytest.approx(capacity, rel=1e-6)
    assert equilibrium(law, 0.99 * edge, d0, d1).memory < capacity
    assert equilibrium(law, 1.01 * edge, d0, d1).memory > capacity


@given(laws(), st.floats(0.01, 1), st.floats(1.01, 2))
def test_memory_and_iteration_time_grow_with_the_rate(law, rate, factor):
    low, high = (equilibrium(law, r, 0.01, 1e-3) for r in (rate, rate * factor))
    assert high.load > low.load
    if high.stable:
        assert high.memory > low.memory
        assert high.iteration_time > low.iteration_time


@pytest.mark.parametrize(
    ("arguments", "key"), [((-1.0, 1.0, 0.1), "rate"), ((1.0, 0.0, 0.1), "d0"), ((1.0, 1.0, -0.1), "d1")]
)
def test_numbers_outside_their_range_are_named(arguments, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        equilibrium(TOY, *arguments)


def test_capacity_must_be_positive():
    with pytest.raises(ConfigError, match="^capacity: "):
        boundary(TOY, 1.0, 0.1, np.float64(0.0))
