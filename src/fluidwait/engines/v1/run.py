"""vLLM V1's own scheduler as a simulator: first tokens and completions equal to the real one's, to the last bit.

With ``depth`` 2 a step is planned when the one before the last has ended, while the last one runs. The plan counts the
tokens on their way as computed; what the running step finishes keeps its place and its blocks until it has ended.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time
from fluidwait.engines.core import EngineError
from fluidwait.engines.v1.pool import new_pool, publish
from fluidwait.engines.v1.rules import Rules, State, new_lists, new_state
from fluidwait.engines.v1.schedule import enqueue, give_up, leave_queue, plan_step
from fluidwait.policies.contract import jit, jit_cached

DONE, STRANDED, BROKEN_INVARIANT = range(3)


class Served(NamedTuple):
    """What became of the requests: arrays by request, in arrival order."""

    first_token: np.ndarray  # float64[N], s
    completion: np.ndarray  # float64[N], s
    preemptions: np.ndarray  # int64[N]
    recomputed: np.ndarray  # int64[N], tokens computed and dropped
    iterations: int
    busy: float  # s spent in iterations
    peak_blocks: int  # most KV blocks in use


def serve(
    requests,
    time_model: TimeModel,
    rules: Rules,
    *,
    priority: np.ndarray | None = None,
    hashes: list[list[int]] | None = None,
    rows: np.ndarray | None = None,
    check: bool = False,
) -> Served:
    """Serve ``requests`` (arrival s, prompt, output; N each) until every one has completed.

    Args:
        priority: int64[N], smaller numbers first; read when the rules are ``by_priority``.
        hashes: of each request, numbers of the full blocks of its prompt: two blocks of one number have the same tokens
            up to their end. Read when the rules are ``caching``; without it no two prompts have a beginning in common.
        rows: float64[iterations, 6], filled with :data:`fluidwait.engines.simulator.LOG_COLUMNS` of as many.
        check: verify conservation of requests and blocks after every iteration.

    Raises:
        ConfigError: a request can never fit the memory.
        EngineError: requests would wait for ever, or an invariant failed.
    """
    check_lengths(requests, rules)
    state = new_state(requests, priority)
    n = len(state.arrival)
    known = (hashes or [[] for _ in range(n)]) if rules.caching else None
    pool = new_pool(rules.blocks, rules.block_size, min(n, rules.requests), state.prompt, state.output, known)
    log = np.empty((0, 6)) if rows is None else rows
    status, at, iterations, busy, peak = _run(state, new_lists(n, rules), pool, time_model, rules, log, check)
    if status != DONE:
        raise EngineError(_explain(status, at, state))
    times = (state.first_token, state.completion)
    return Served(*times, state.preemptions, state.recomputed, iterations, busy, peak)


def check_lengths(requests, rules: Rules) -> None:
    """Refuse requests that do not fit the memory; the last token of one needs no place in it.

    Raises:
        ConfigError: names the first such request and the longest that fits.
    """
    length, most = requests.prompt + requests.output, rules.blocks * rules.block_size + 1
    if np.any(length > most):
        r = int(np.argmax(length > most))
        raise ConfigError(
            f"request {r}: prompt {requests.prompt[r]} + output {requests.output[r]} = {length[r]} tokens, but the KV "
            f"memory holds {most - 1} and the last token needs none (nearest valid value: {most})"
        )


def _explain(status: int, at: float, state: State) -> str:
    if status == STRANDED:
        left = int(np.argmax(np.isnan(state.completion)))
        return f"vLLM's rules: requests stranded at t = {at:.6g} s: request {left} would wait for ever"
    return f"vLLM's rules: invariant violated at t = {at:.6g} s (conservation of requests or blocks)"


@jit_cached
def _run(state, lists, pool, time_model, rules, rows, check):
    n = len(state.arrival)
    zero: Any = np.int64(0)
    free, head, tail, running, finished = rules.blocks, zero, zero, zero, zero
    iterations, flights, empty, evictions, peak = zero, zero, zero, zero, zero
    now, device_free, busy = 0.0, 0.0, 0.0
    while finished < n:
        while tail < n and state.arrival[tail] <= now:
            tail = enqueue(state, lists, rules, tail, head, tail)
        free, head, running, preempted = plan_step(state, lists, pool, rules, free, head, tail, running)
        evictions += preempted
        slot = iterations % 2
        sums, batch = _take_off(state, lists, slot, running)
        if batch > 0:
            duration = iteration_time(time_model, sums)
            start = max(now, device_free)
            device_free = start + duration
            busy += duration
            lists.end[slot] = device_free
            peak = max(peak, rules.blocks - free)
            if iterations < len(rows):
                rows[iterations, 0], rows[iterations, 1], rows[iterations, 2] = start, duration, sums.tokens
                rows[iterations, 3], rows[iterations, 5] = batch, evictions
                rows[iterations, 4] = _cached_tokens(state, lists, running)
            iterations += 1
            flights += 1
            empty = zero
        if flights >= rules.depth or (flights > 0 and batch == 0):
            slot = (iterations - flights) % 2
            now = max(now, lists.end[slot])
            free, head, running, completed = _land(state, lists, pool, rules, slot, now, free, head, running)
            finished += completed
            flights -= 1
        elif flights == 0:
            if head == tail and running == 0:
                now = max(now, state.arrival[tail])
            else:  # a request that was alone has preempted itself, and comes back at once
                empty += 1
                if empty > 2:
                    return STRANDED, now, iterations, busy, peak
        if check and not _holds(state, lists, rules, free, head, tail, running, finished):
            return BROKEN_INVARIANT, now, iterations, busy, peak
    return DONE, now, iterations, busy, peak


@jit
def _take_off(state, lists, slot, running):
    """The sums over the planned batch and how many take part; its effects, which the next plan counts on."""
    zero: Any = np.int64(0)
    tokens, batch, kv, decodes, decode_context, given = zero, zero, zero, zero, zero, zero
    prefills, prefill_tokens, prefill_squares, prefill_context, longest = zero, zero, zero, zero, zero
    for k in range(running):
        r = lists.running[k]
        q = state.planned[r]
        if q == 0:
            continue
        state.planned[r] = 0
        cached = state.cached[r]
        batch += 1
        tokens += q
        kv += cached + q
        longest = max(longest, cached + q)
        state.cached[r] = cached + q
        if cached < state.goal[r]:
            prefills += 1
            prefill_tokens += q
            prefill_squares += q * q
            prefill_context += q * cached
            if cached + q < state.goal[r]:
                continue
        else:
            decodes += 1
            decode_context += cached + 1
        state.generated[r] += 1
        lists.given[slot, given] = r
        given += 1
    lists.givens[slot] = given
    prefilled = (prefills, prefill_tokens, prefill_squares, prefill_context)
    sums = BatchSums(tokens, kv, *prefilled, decodes, decode_context, longest)
    return sums, batch


@jit
def _land(state, lists, pool, rules, slot, now, free, head, running):
    """Deliver the tokens of a step that has ended; returns (free blocks, head, running, completed)."""
    completed, left = 0, False
    for i in range(lists.givens[slot]):
        r = lists.given[slot, i]
        state.delivered[r] += 1
        if state.delivered[r] == 1:
            state.first_token[r] = now
        if rules.caching and rules.depth > 1 and state.is_running[r]:  # the token is known only now
            publish(pool, r, (state.cached[r] - state.generated[r] + state.delivered[r]) // rules.block_size)
        if state.delivered[r] < state.output[r]:
            continue
        state.completion[r] = now
        completed += 1
        if state.is_running[r]:
            state.is_running[r] = False
            free += give_up(state, pool, rules, r)
            left = True
        else:  # preempted with its last token on the way
            head = leave_queue(lists, r, head)
    if left:
        kept = 0
        for k in range(running):
            r = lists.running[k]
            if state.is_running[r]:
                lists.running[kept] = r
                kept += 1
        running = kept
    return free, head, running, completed


@jit
def _cached_tokens(state, lists, running):
    """KV tokens of all that run."""
    tokens: Any = np.int64(0)
    for k in range(running):
        tokens += state.cached[lists.running[k]]
    return tokens


@jit
def _holds(state, lists, rules, free, head, tail, running, finished):
    """Conservation of requests and, without sharing, of blocks; memory within capacity."""
    blocks: Any = np.int64(0)
    for k in range(running):
        r = lists.running[k]
        blocks += state.held[r]
        if state.cached[r] > state.held[r] * rules.block_size or not state.is_running[r]:
            return False
    if free < 0 or (blocks + free != rules.blocks if not rules.caching else blocks + free < rules.blocks):
        return False
    return running + (tail - head) + finished == tail
