"""The load generator against servers made of sleeps: schedule, drift, and every way to lose a request."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.engines.vllm.load import generator as loadgen
from fluidwait.engines.vllm.load.generator import LoadError, columns_of, drift, offer, token_ids
from fluidwait.stats.metrics import check_run
from fluidwait.workload import Requests


def requests(arrival, prompt=5, output=3) -> Requests:
    n = len(arrival)
    return Requests(np.array(arrival, float), np.full(n, prompt), np.full(n, output), np.zeros(n, dtype=np.int64))


async def echo(number, prompt, wanted):
    """One token at a time, 1 ms apart."""
    for _ in range(wanted):
        await asyncio.sleep(0.001)
        yield 1


def test_requests_go_out_when_they_are_due_whatever_the_server_does():
    offered = requests(np.arange(20) * 0.01)

    async def slow(number, prompt, wanted):
        await asyncio.sleep(0.3)  # longer than all arrivals together: a closed loop would fall behind
        yield wanted

    answers = asyncio.run(offer(offered, slow))
    assert np.all(answers.sent >= offered.arrival)
    late = drift(offered, answers)
    assert 0 <= late.mean <= late.p99 <= late.largest < 0.2
    assert np.all(answers.completion >= 0.3)


def test_a_blocked_generator_shows_its_drift_and_does_not_shift_the_schedule():
    offered = requests([0.0, 0.05, 0.4])

    async def blocking(number, prompt, wanted):
        import time

        if number == 0:
            time.sleep(0.2)  # the whole event loop stands still
        yield wanted

    answers = asyncio.run(offer(offered, blocking))
    late = answers.sent - offered.arrival
    assert late[1] > 0.1 and drift(offered, answers).largest == late.max()
    assert late[2] < 0.1  # absolute times: the third is not late because the second was


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 0.02), min_size=1, max_size=12), st.integers(1, 4))
def test_every_run_obeys_the_laws_of_a_run(gaps, output):
    offered = requests(np.cumsum(gaps), output=output)
    answers = asyncio.run(offer(offered, echo))
    columns = columns_of(offered, answers)
    check_run(columns)
    assert np.all(columns["evictions"] == loadgen.UNKNOWN)


def test_the_same_seed_gives_the_same_prompts_of_the_right_lengths():
    lengths = np.array([1, 7, 3])
    first, again, other = (token_ids(lengths, 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [len(ids) for ids in first] == [1, 7, 3]
    assert all(3 <= token < 50 for ids in first for token in ids)


async def _fails(number, prompt, wanted):
    if number == 2:
        raise OSError("connection reset")
    yield wanted


async def _short(number, prompt, wanted):
    yield wanted - (number == 2)


async def _long(number, prompt, wanted):
    yield wanted + (number == 2)


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (_fails, "request 2 failed: connection reset"),
        (_short, "request 2: asked for 3 tokens, got 2"),
        (_long, "request 2: asked for 3 tokens, got 4"),
    ],
)
def test_a_lost_request_is_an_error(send, message):
    with pytest.raises(LoadError, match=message):
        asyncio.run(offer(requests([0.0, 0.0, 0.001, 0.002]), send))


def test_a_request_that_never_comes_back_is_an_error_and_is_cancelled():
    ended = []

    async def stuck(number, prompt, wanted):
        try:
            if number == 1:
                await asyncio.sleep(3600)
            yield wanted
        finally:
            ended.append(number)

    with pytest.raises(LoadError, match=r"1 of 3 requests were not answered within 0.2 s .* request 1"):
        asyncio.run(offer(requests([0.0, 0.0, 0.0]), stuck, patience=0.2))
    assert sorted(ended) == [0, 1, 2]


def test_nothing_more_is_sent_once_a_request_has_failed():
    seen = []

    async def broken(number, prompt, wanted):
        seen.append(number)
        raise ValueError("no")
        yield

    with pytest.raises(LoadError, match="request 0 failed: no"):
        asyncio.run(offer(requests([0.0, 0.2, 0.4]), broken))
    assert seen == [0]
