from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.device.timing import BatchSums, TimeModel, iteration_time, linear

STAIRS = TimeModel(0.002, 1e-7, np.array([0.0, 0.01, 0.01, 0.02]), 0.004, 3e-4, 5e-6, 2e-9, 5e-9, 2e-4, 3e-5, 2.7e-7)
chunks = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 4096)), max_size=12)
cached = st.lists(st.integers(0, 4096), max_size=40)


def time_of(tm: TimeModel, prefills: list[tuple[int, int]], decodes: list[int]) -> float:
    """The iteration time of a batch given request by request."""
    q = sum(c for c, _ in prefills)
    reads = sum(k + 1 for k in decodes)
    squares, cross = sum(c * c for c, _ in prefills), sum(c * k for c, k in prefills)
    kv = sum(c + k for c, k in prefills) + reads
    return iteration_time(tm, BatchSums(q + len(decodes), kv, len(prefills), q, squares, cross, len(decodes), reads))


@settings(deadline=None)  # the first call compiles
@given(st.floats(0, 1), st.floats(0, 1e-3), chunks, cached)
def test_linear_is_exactly_d0_plus_d1_kv(d0, d1, prefills, decodes):
    kv = sum(c + k for c, k in prefills) + sum(k + 1 for k in decodes)
    assert time_of(linear(d0, d1), prefills, decodes) == d0 + d1 * kv


@settings(deadline=None)
@given(chunks, cached, st.randoms())
def test_the_order_of_the_batch_does_not_matter(prefills, decodes, random):
    before = time_of(STAIRS, prefills, decodes)
    random.shuffle(prefills)
    random.shuffle(decodes)
    assert time_of(STAIRS, prefills, decodes) == before


def test_every_coefficient_enters_once():
    names = [f for f in TimeModel._fields if f != "compute"]
    zero = dict.fromkeys(names, 0.0) | {"compute": np.zeros(1)}
    # tokens, kv_tokens, prefills, prefill_tokens, prefill_squares, prefill_context, decodes, decode_context
    sums = (17, 19, 2, 13, 97, 29, 4, 31)
    expected = {
        "base": 1,
        "per_kv": 19,
        "compute_slope": 17,
        "prefill_request": 2,
        "prefill_token": 13,
        "prefill_square": 97,
        "prefill_context": 29,
        "prefill_launch": 1,
        "decode_launch": 1,
        "decode_request": 4,
        "decode_context": 31,
    }
    assert sorted(expected) == sorted(names)
    for name, factor in expected.items():
        assert iteration_time(TimeModel(**(zero | {name: 0.5})), BatchSums(*sums)) == 0.5 * factor, name


def test_the_prefill_launch_is_paid_once_and_only_when_something_prefills():
    slow = STAIRS._replace(prefill_launch=0.5)
    for prefills, more in (([], 0.0), ([(1, 0)], 0.5), ([(1, 0), (2, 5)], 0.5)):
        assert time_of(slow, prefills, [10]) - time_of(STAIRS, prefills, [10]) == pytest.approx(more, abs=1e-12)


def test_the_decode_launch_is_paid_only_when_something_decodes():
    assert time_of(STAIRS, [], [10]) - time_of(STAIRS, [], []) > STAIRS.decode_launch
    only_launch = TimeModel(0.0, 0.0, np.zeros(1), *[0.0] * 5, 1.0, 0.0, 0.0)
    assert time_of(only_launch, [(5, 0)], []) == 0.0
    assert time_of(only_launch, [(5, 0)], [1]) == time_of(only_launch, [], [1, 2, 3]) == 1.0


def test_the_staircase_is_looked_up_and_extended_by_its_slope():
    stairs = TimeModel(0.0, 0.0, STAIRS.compute, STAIRS.compute_slope, *[0.0] * 7)
    times = [iteration_time(stairs, BatchSums(q)) for q in range(6)]
    assert times == pytest.approx([0.0, 0.01, 0.01, 0.02, 0.024, 0.028], rel=1e-15)


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 10**6), st.integers(0, 10**6))
def test_beyond_the_table_more_tokens_never_take_less_time(tokens, more):
    first, second = (iteration_time(STAIRS, BatchSums(q)) for q in (tokens, tokens + more))
    assert second >= first
