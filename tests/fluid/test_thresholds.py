from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fluid_laws import CAPACITY, D0, D1, SINGLE, TOY, law, laws
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.equilibrium import boundary, equilibrium, kv_work
from fluidwait.fluid.thresholds import Infeasible, enough, wait_thresholds


def test_thresholds_by_hand():
    # n >= 2 (1 + 0.1 * 3 n) holds with equality at n = 5
    found = wait_thresholds(TOY, 2.0, 1.0, 0.1, capacity=15.0)
    assert found.n.tolist() == [5]
    assert found.n.dtype == np.int64
    assert found.iteration_time == pytest.approx(2.5)
    assert found.memory == 15.0
    assert found.equilibrium_memory == pytest.approx(15.0)
    assert found.slack == pytest.approx([0.0])


def test_two_types_by_hand():
    # work 3 and 2 * 2.5 = 5, rates 1 and 0.5: (1, 1) gives Delta T = 1.8, so n_1 = 2 and Delta T = 2.1, so (3, 2)
    # with Delta T = 1 + 0.1 (9 + 10) = 2.9, which 3 / 1 and 2 / 0.5 both cover
    found = wait_thresholds(law([1, 2], [1, 1], [2, 1]), 1.5, 1.0, 0.1, math.inf)
    assert found.n.tolist() == [3, 2]
    assert found.iteration_time == pytest.approx(2.9)


def test_low_rate_needs_one_request():
    assert wait_thresholds(SINGLE, 20.0, D0, D1, CAPACITY).n.tolist() == [1]


@pytest.mark.parametrize(
    ("rate", "capacity", "reason"),
    [
        (10 / 3, math.inf, "unstable"),
        (2.1, 15.0, "memory"),
        (0.5, 2.0, "integrality"),  # a single request already needs 3 tokens
    ],
)
def test_reason_why_there_are_none(rate, capacity, reason):
    with pytest.raises(Infeasible) as caught:
        wait_thresholds(TOY, rate, 1.0, 0.1, capacity)
    assert caught.value.reason == reason
    assert f"({reason})" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_names_the_largest_rate_that_fits():
    with pytest.raises(Infeasible, match="the largest rate that fits is 2$"):
        wait_thresholds(TOY, 2.1, 1.0, 0.1, 15.0)


@pytest.mark.parametrize("rate", [0.0, math.nan])
def test_numbers_outside_their_range_are_named(rate):
    with pytest.raises(ConfigError, match="^rate: "):
        wait_thresholds(TOY, rate, 1.0, 0.1, 15.0)


def _clearly_feasible(n, law, rate, d0, d1, capacity):
    memory = kv_work(law).per_type @ n
    needed = rate * law.share * (d0 + d1 * memory)
    return memory <= capacity and np.all(needed <= np.asarray(n) * (1 - 1e-9))


@settings(max_examples=60, deadline=None)
@given(laws(most_types=2, longest=4), st.floats(0.05, 1.1), st.sampled_from([0.0, 0.02, 0.1]))
def test_no_feasible_vector_is_smaller_in_any_component(law, share_of_boundary, d1):
    capacity, d0 = 400.0, 1.0
    rate = share_of_boundary * boundary(law, d0, d1, capacity)
    work = kv_work(law).per_type
    box = [range(1, int(capacity // w) + 1) for w in work]
    feasible = [n for n in itertools.product(*box) if _clearly_feasible(np.array(n), law, rate, d0, d1, capacity)]
    try:
        found = wait_thresholds(law, rate, d0, d1, capacity)
    except Infeasible:
        assert feasible == []
        return
    assert np.all(rate * law.share * found.iteration_time <= found.n * (1 + 1e-9))
    assert found.memory == work @ found.n <= capacity
    assert found.memory >= found.equilibrium_memory * (1 - 1e-9)
    for n in feasible:
        assert np.all(np.array(n) >= found.n)


@settings(deadline=None)
@given(laws(), st.floats(0.05, 0.9), st.floats(1.0, 1.1))
def test_thresholds_grow_with_the_rate(law, load, factor):
    d0, d1 = 0.01, 1e-4
    rate = load * boundary(law, d0, d1, math.inf)
    low, high = (wait_thresholds(law, r, d0, d1, math.inf) for r in (rate, rate * factor))
    assert np.all(high.n >= low.n)
    assert np.all(low.n >= equilibrium(law, rate, d0, d1).per_stage * (1 - 1e-9))


def test_enough_treats_a_rounding_error_as_equality():
    amounts = np.array([(0.1 + 0.2) * 10, 3.0, 3.0001, 2.9999])
    assert amounts[0] != 3.0
    assert enough(amounts).tolist() == [3, 3, 4, 3]
    assert enough(amounts, strict=True).tolist() == [4, 4, 4, 3]
