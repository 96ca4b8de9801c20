from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.paths import project_root
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time, linear, scaled

ROOT = project_root()

STAIRS = TimeModel(0.002, 1e-7, np.array([0.0, 0.01, 0.01, 0.02]), 0.004, 3e-4, 5e-6, 2e-9, 5e-9, 2e-4, 3e-5, 2.7e-7)
TABLES = ("compute", "alone", "alone_lengths", "alone_uneven", "beside", "sequences")
MEASURED = linear(1e-9, 0.0)._replace(
    alone=np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 6.0], [3.0, 5.0, 9.0]]),
    alone_lengths=np.array([10.0, 20.0, 40.0]),
    alone_uneven=np.array([0.0, 0.0, 0.25]),
    beside=np.array([[1.0, 2e-1, 3e-2, 5e-3, 7e-4, 0.0], [2.0, 0, 0, 0, 0, 0.5], [4.0, 2e-1, 3e-2, 5e-3, 7e-4, 11e-3]]),
    sequences=np.array([0.0, 100.0, 200.0, 300.0]),
)
chunks = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 4096)), max_size=12)
cached = st.lists(st.integers(0, 4096), max_size=40)


def time_of(tm: TimeModel, prefills: list[tuple[int, int]], decodes: list[int]) -> float:
    """The iteration time of a batch given request by request."""
    q = sum(c for c, _ in prefills)
    reads = sum(k + 1 for k in decodes)
    squares, cross = sum(c * c for c, _ in prefills), sum(c * k for c, k in prefills)
    kv = sum(c + k for c, k in prefills) + reads
    longest = max([*(c + k for c, k in prefills), *(k + 1 for k in decodes)], default=0)
    sums = BatchSums(q + len(decodes), kv, len(prefills), q, squares, cross, len(decodes), reads, longest)
    return iteration_time(tm, sums)


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
    names = [f for f in TimeModel._fields if f not in TABLES]
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


# --- tables of attention by the number of decodes


@pytest.mark.parametrize(
    ("cached", "attention"),
    [
        ([9], 1.0),  # a token more is read than is cached
        ([14], 1.5),
        ([29], 4.0),
        ([59], 10.0),  # the last line goes on
        ([4], 0.5),
        ([19, 19], 5.0),
        ([9, 29], 5.0 + 0.25 * 10),  # a mean of 20, and the longest 10 above it
        ([19, 19, 19, 19], 5.0),  # beyond the table: its last row
        ([], 0.0),
    ],
)
def test_decodes_alone_are_looked_up_by_number_and_mean_length(cached, attention):
    heads = MEASURED.sequences[min(len(cached), 3)]
    assert time_of(MEASURED, [], cached) == pytest.approx(1e-9 + attention + heads, rel=1e-12)


@pytest.mark.parametrize(
    ("prefills", "cached", "attention"),
    [
        ([(8, 0)], [], 1 + 0.2 * 8 + 0.03 * 64 + 7e-4 * 8),
        ([(8, 16)], [], 1 + 0.2 * 8 + 0.03 * 64 + 5e-3 * 128 + 7e-4 * 24),
        ([(8, 16)], [9], 2 + 0.5 * 10),
        ([(8, 16), (4, 0)], [9, 99], 4 + 0.2 * 12 + 0.03 * 80 + 5e-3 * 128 + 7e-4 * 100 + 11e-3 * 110),
    ],
)
def test_beside_a_prefill_decodes_cost_what_they_cost_there(prefills, cached, attention):
    heads = MEASURED.sequences[min(len(prefills) + len(cached), 3)]
    assert time_of(MEASURED, prefills, cached) == pytest.approx(1e-9 + attention + heads, rel=1e-12)


@pytest.mark.parametrize("path", ["a100-80g_llama-2-7b", ROOT / "data/gpu/nvidia-h100-80gb-hbm3/hardware.yaml"])
@settings(deadline=None, max_examples=200)
@given(prefills=chunks, decodes=cached)
def test_a_model_without_such_tables_takes_what_it_took_before_there_were_any(path, prefills, decodes):
    """The former formula, to the last bit."""
    tm = load_hardware(path).time_model()
    q, reads = sum(c for c, _ in prefills), sum(k + 1 for k in decodes)
    tokens, last = q + len(decodes), len(tm.compute) - 1
    compute = tm.compute[tokens] if tokens <= last else tm.compute[last] + tm.compute_slope * (tokens - last)
    prefill = (
        (tm.prefill_launch if prefills else 0.0)
        + tm.prefill_request * len(prefills)
        + tm.prefill_token * q
        + tm.prefill_square * sum(c * c for c, _ in prefills)
        + tm.prefill_context * sum(c * k for c, k in prefills)
    )
    decode = (tm.decode_launch if decodes else 0.0) + tm.decode_request * len(decodes) + tm.decode_context * reads
    kv = sum(c + k for c, k in prefills) + reads
    assert time_of(tm, prefills, decodes) == tm.base + tm.per_kv * kv + compute + prefill + decode


def test_a_scaled_model_takes_a_multiple_of_the_time_at_every_length():
    for prefills, decodes in (([], [13, 27]), ([(8, 16)], [9]), ([(3, 1)], [])):
        twice = time_of(scaled(MEASURED, 2.0), prefills, decodes)
        assert twice == pytest.approx(2 * time_of(MEASURED, prefills, decodes), rel=1e-12)
