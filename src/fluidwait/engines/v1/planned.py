"""A policy that plans by itself under vLLM's rules: the plug-in in vLLM's scheduler, as a simulator.

Each step the policy plans by the plug-in's own decision (:mod:`fluidwait.engines.v1.decision`). vLLM's step follows,
over the requests chosen, as ``Stock.over`` of the plug-in has it: it sees the served ones as running, in the plan's
order, and the admitted ones as waiting. Then all others are back where they were.

Nobody tells a policy in an engine that no more requests will come: a run drains only by its patience.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from fluidwait.device import timing
from fluidwait.device.timing import TimeModel, iteration_time
from fluidwait.engines import core
from fluidwait.engines.core import EngineError, are_waiting, close_gaps
from fluidwait.engines.v1 import columns, decision, desk, pool, rules, run, schedule
from fluidwait.engines.v1.decision import ADMIT, ORDER, decide, nap
from fluidwait.engines.v1.desk import (
    BATCH_TIME,
    HELD_SINCE,
    lay_out,
    new_desk,
    note,
    number,
    plan_on,
    state_on,
    take_in,
    touch_down,
    with_chunks,
)
from fluidwait.engines.v1.pool import new_pool
from fluidwait.engines.v1.rules import Lists, Rules, State, new_lists
from fluidwait.engines.v1.run import Served, _cached_tokens, _holds, _land, _take_off, check_lengths
from fluidwait.engines.v1.schedule import admit_waiting, chunk_limit, serve_running
from fluidwait.policies.contract import jit

DONE, STRANDED, BROKEN_INVARIANT, BAD_PLAN = range(4)

MOST_EMPTY = 100_000
"""Steps in a row that serve nobody, when no more requests come or time stands still: more, and somebody is stranded."""


def serve_planned(
    requests,
    policy,
    knobs: Any,
    time_model: TimeModel,
    rules: Rules,
    *,
    priority: np.ndarray | None = None,
    hashes: list[list[int]] | None = None,
    rows: np.ndarray | None = None,
    check: bool = False,
) -> Served:
    """Serve ``requests`` (arrival s, prompt, output, kind; N each) as the policy plans until every one has completed.

    Args:
        policy, knobs: a :class:`fluidwait.policies.Policy` and what its ``prepare`` returned.
        priority, hashes, rows, check: as of :func:`fluidwait.engines.v1.run.serve`.

    Raises:
        ConfigError: a request can never fit the memory.
        EngineError: requests would wait for ever, the plan breaks the contract, or an invariant failed.
    """
    check_lengths(requests, rules)
    within = with_chunks(policy, knobs, rules)
    desk = new_desk(requests, policy, knobs, rules, priority)
    state, n = state_on(desk, requests), len(requests.arrival)
    known = (hashes or [[] for _ in range(n)]) if rules.caching else None
    blocks = new_pool(rules.blocks, rules.block_size, min(n, rules.requests), state.prompt, state.output, known)
    memory = np.zeros(policy.memory_size(knobs), dtype=np.int64)
    log = np.empty((0, 6)) if rows is None else rows
    status, at, iterations, busy, peak = compiled(policy.module)(
        knobs, memory, state, new_lists(n, rules), blocks, desk, time_model, within, log, check
    )
    if status != DONE:
        raise EngineError(_explain(status, at, policy.use, state))
    times = (state.first_token, state.completion)
    return Served(*times, state.preemptions, state.recomputed, iterations, busy, peak)


def _explain(status: int, at: float, policy: str, state: State) -> str:
    when = f"at t = {at:.6g} s"
    if status == STRANDED:
        left = int(np.argmax(np.isnan(state.completion)))
        return (
            f"{policy}: requests stranded {when}: it holds everybody back, and vLLM tells nobody that no more requests "
            f"will come; request {left} would wait for ever"
        )
    if status == BAD_PLAN:
        return f"{policy}: the plan {when} breaks the contract (admits what does not wait)"
    return f"{policy}: vLLM's rules: invariant violated {when} (conservation of requests or blocks)"


@cache
def compiled(module):
    """The loop for one policy, compiled on the first call ever, then read from Numba's cache."""
    parts = [core, timing, columns, decision, desk, pool, rules, run, schedule, sys.modules[__name__]]
    return core.specialise(_run, module, parts, decide)


def _run(knobs, memory, state, lists, pool, desk, time_model, rules, rows, check):
    n, zero, pace, status = len(state.arrival), np.int64(0), desk.pace, DONE
    free, head, tail, running, finished = rules.blocks, zero, zero, zero, zero
    iterations, flights, empty, evictions, peak, ended, held = zero, zero, zero, zero, zero, zero, zero
    now, device_free, busy = 0.0, 0.0, 0.0
    while finished < n:
        tail = take_in(state, lists, desk, rules, now, head, tail)
        batch, slot, wake = zero, iterations % 2, now
        if running > 0 or head < tail or ended > 0:
            lay_out(desk, lists, rules, now, free, running)
            inside, waiting = desk.slots[:running], lists.waiting[head : min(tail, head + desk.depth)]
            own = (desk.times, desk.counts, desk.residents, desk.work, desk.last_stage, desk.rules, knobs, memory)
            decided = decide(now, now - pace[HELD_SINCE], desk.step, inside, desk.held[:held], waiting, *own)
            if not are_waiting(plan_on(desk), decided.admitted, len(waiting)):
                status = BAD_PLAN
                break
            wake = decided.wake
            free, head, running, preempted = _over(state, lists, pool, rules, desk, decided, free, head, tail, running)
            evictions += preempted
            number(state, lists, desk, running, iterations)
            sums, batch = _take_off(state, lists, slot, running)
            held = note(
                state,
                lists,
                rules,
                desk,
                decided,
                len(inside),
                running,
                preempted,
                iterations,
                iterations - flights,
                now,
            )
            ended = zero
        if batch > 0:
            duration = iteration_time(time_model, sums)
            start = max(now, device_free)
            device_free = start + duration
            busy += duration
            lists.end[slot], desk.planned[slot] = device_free, now
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
            now = touch_down(lists, desk, slot, now)
            free, head, running, ended = _land(state, lists, pool, rules, slot, now, free, head, running)
            finished += ended
            flights -= 1
        elif flights == 0 and head == tail and running == 0:
            now = max(now, state.arrival[tail])
        elif flights == 0:  # everybody is held
            began = now
            now += nap(pace[BATCH_TIME], wake - now)
            empty += tail == n or now == began
            if empty > MOST_EMPTY:
                status = STRANDED
                break
        if check and not _holds(state, lists, rules, free, head, tail, running, finished):
            status = BROKEN_INVARIANT
            break
    return status, now, iterations, busy, peak


@jit
def _over(state, lists, pool, rules, desk, decided, free, head, tail, running):
    """vLLM's own step over the requests that are to be served; returns (free blocks, head, running, preempted)."""
    most, zero = chunk_limit(rules, running + tail - head), np.int64(0)
    budget: Any = min(rules.tokens, decided.tokens)
    handed: Any = running if decided.ordered < 0 else decided.ordered
    for k in range(handed):
        desk.handed[k] = lists.running[k] if decided.ordered < 0 else desk.work[ORDER, k]
    for i in range(decided.admitted):
        desk.entering[i] = lists.waiting[head + desk.work[ADMIT, i]]
    queue = Lists(lists.waiting, desk.handed, lists.given, lists.givens, lists.end)
    budget, free, head, kept, preempted = serve_running(
        state, queue, pool, rules, budget, most, free, head, tail, handed
    )
    if preempted > 0:
        kept = zero
        for k in range(running):
            r = lists.running[k]
            if state.is_running[r]:
                lists.running[kept] = r
                kept += 1
        return free, head, kept, preempted
    admitted = Lists(desk.entering, desk.handed, lists.given, lists.givens, lists.end)
    free, entered, inside = admit_waiting(
        state, admitted, pool, rules, budget, most, free, zero, decided.admitted, handed
    )
    for k in range(handed, inside):
        lists.running[running] = desk.handed[k]
        running += 1
    close_gaps(lists.waiting, desk.work[ADMIT], entered, head)
    return free, head + entered, running, preempted
