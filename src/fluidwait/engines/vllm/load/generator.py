"""Open-loop load generator: send requests at their own times, whatever the server does, and record what comes back.

The schedule is absolute: request i is due ``arrival[i]`` seconds after one common start, so a late request delays no
other one. How late each was is the *drift* of the generator; it is measured, and :func:`drift` sums it up. Latencies
count from the time at which a request was due, so a generator that cannot keep up does not flatter the server.

A *sender* carries one request and yields the number of tokens that arrived: ``loadgen_engine`` has one for vLLM in this
process, ``loadgen_http`` one for any OpenAI-compatible server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import numpy as np

from fluidwait.base.errors import FluidwaitError
from fluidwait.workload import Requests

LEAD = 0.05
"""Seconds between the start of the generator and time 0 of the schedule."""

UNKNOWN = -1
"""Evictions of a request when the server does not tell."""

Sender = Callable[[int, list[int], int], AsyncIterator[int]]
"""(number of the request, prompt token ids, output tokens wanted) -> tokens that came, message by message."""


class LoadError(FluidwaitError):
    """A run that lost a request, or got another number of tokens than it asked for."""


class Answers(NamedTuple):
    """What came back, arrays by request; seconds after time 0 of the schedule."""

    sent: np.ndarray  # float64[N], when the generator really sent it
    first_token: np.ndarray  # float64[N]
    completion: np.ndarray  # float64[N]
    start: float  # time 0 of the schedule on the clock ``time.monotonic``, s


class Drift(NamedTuple):
    """How late the generator sent its requests, s."""

    mean: float
    p99: float
    largest: float


async def offer(
    requests: Requests, send: Sender, *, vocabulary: int = 1000, seed: int = 0, patience: float = 120.0
) -> Answers:
    """Send every request when it is due and wait for all answers.

    Args:
        requests: arrivals (s after time 0, not decreasing), prompt and output lengths.
        send: carries one request.
        vocabulary: prompts are random token ids below this.
        patience: seconds after the last arrival at which what is still unanswered counts as lost.

    Raises:
        LoadError: a request failed, was not answered in time, or came back with another number of tokens.
    """
    prompts = token_ids(requests.prompt, vocabulary, seed)
    n = len(requests.arrival)
    sent, first, done = (np.full(n, np.nan) for _ in range(3))
    start = time.monotonic() + LEAD
    failures: list[LoadError] = []

    async def one(i: int) -> None:
        sent[i] = time.monotonic() - start
        wanted, received = int(requests.output[i]), 0
        try:
            async for count in send(i, prompts[i], wanted):
                received += count
                if received and np.isnan(first[i]):
                    first[i] = time.monotonic() - start
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            failures.append(LoadError(f"request {i} failed: {reason}"))
            return
        done[i] = time.monotonic() - start
        if received != wanted:
            failures.append(LoadError(f"request {i}: asked for {wanted} tokens, got {received}"))

    tasks: list[asyncio.Task] = []
    try:
        for i in range(n):
            await _until(start + requests.arrival[i])
            if failures:
                break
            tasks.append(asyncio.create_task(one(i)))
        await asyncio.wait(tasks, timeout=patience)
    finally:
        await _cancel(tasks)
    if failures:
        raise failures[0]
    lost = np.flatnonzero(np.isnan(done))
    if len(lost):
        raise LoadError(
            f"{len(lost)} of {n} requests were not answered within {patience:g} s of the last arrival, "
            f"the first is request {lost[0]}"
        )
    return Answers(sent, first, done, start)


def drift(requests: Requests, answers: Answers) -> Drift:
    """How late the requests were sent (s)."""
    late = answers.sent - requests.arrival
    return Drift(float(late.mean()), float(np.percentile(late, 99)), float(late.max()))


def columns_of(requests: Requests, answers: Answers, evictions: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The columns of :data:`fluidwait.artifacts.records.REQUESTS`; evictions are :data:`UNKNOWN` unless given."""
    n = len(requests.arrival)
    return {
        "request_id": np.arange(n),
        "kind": requests.kind,
        "arrival": requests.arrival,
        "first_token": answers.first_token,
        "completion": answers.completion,
        "prompt_tokens": requests.prompt,
        "output_tokens": requests.output,
        "evictions": np.full(n, UNKNOWN) if evictions is None else evictions,
    }


def token_ids(lengths: np.ndarray, vocabulary: int, seed: int) -> list[list[int]]:
    """Random prompts of these lengths: token ids from 3 up, past the special ones; the same for the same seed."""
    random = np.random.default_rng(seed)
    return [random.integers(3, vocabulary, int(n)).tolist() for n in lengths]


async def _until(moment: float) -> None:
    """Sleep until ``moment`` on the monotonic clock."""
    while (left := moment - time.monotonic()) > 0:
        await asyncio.sleep(left)


async def _cancel(tasks: list[asyncio.Task]) -> None:
    """End what still runs, so that the server forgets its requests, and take every exception off the loop's hands."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
