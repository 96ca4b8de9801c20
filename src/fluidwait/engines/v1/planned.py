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
from fluidwait.engines.v1 import columns, decision, pool, run, schedule
from fluidwait.engines.v1 import desk as desk_of
from fluidwait.engines.v1 import rules as rules_of
from fluidwait.engines.v1.decision import ADMIT, CHUNK_OF, ORDER, REFUSED, TOKENS, decide, nap
from fluidwait.engines.v1.desk import (
    BATCH_TIME,
    BLOCKS,
    BUSY,
    DEVICE_FREE,
    EMPTY,
    ENDED,
    EVICTIONS,
    FINISHED,
    FLIGHTS,
    HEAD,
    HELD_SINCE,
    INSIDE,
    ITERATIONS,
    NOW,
    PAUSED,
    PEAK,
    TAIL,
    lay_out,
    new_desk,
    note,
    number,
    state_on,
    take_in,
    touch_down,
    with_chunks,
)
from fluidwait.engines.v1.pool import new_pool
from fluidwait.engines.v1.rules import Lists, Rules, State, new_lists
from fluidwait.engines.v1.run import Served, _cached_tokens, _holds, _land, _take_off, check_lengths
from fluidwait.engines.v1.schedule import admit_waiting, chunk_limit, serve_running
from fluidwait.policies.contract import Plan, jit

GOING_ON, DONE, STRANDED, BROKEN_INVARIANT, BAD_PLAN = range(5)

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
    blocks = new_pool(state, rules, hashes)
    memory = np.zeros(policy.memory_size(knobs), dtype=np.int64)
    log = np.empty((0, 6)) if rows is None else rows
    lists = new_lists(n, rules)
    status = compiled(policy.module)(knobs, memory, state, lists, blocks, desk, time_model, within, log, check)
    at, pace = desk.at.tolist(), desk.pace
    if status != DONE:
        raise EngineError(_explain(status, pace[NOW], policy.use, state))
    times = (state.first_token, state.completion)
    return Served(*times, state.preemptions, state.recomputed, at[ITERATIONS], float(pace[BUSY]), at[PEAK])


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
    return core.specialise(_run, module, PARTS, decide)


def _run(knobs, memory, state, lists, pool, desk, time_model, rules, rows, check):
    """Ask, and follow, until all is done: no more than this is compiled for every policy anew."""
    at, pace, status = desk.at, desk.pace, GOING_ON
    out = Plan(desk.work[TOKENS], desk.work[ADMIT], desk.work[CHUNK_OF])
    own = (desk.times, desk.counts, desk.residents, desk.work, desk.last_stage, desk.rules, knobs, memory)
    while status == GOING_ON:
        wait_for_work(state, lists, desk, rules)
        now, head = pace[NOW], at[HEAD]
        inside, held = desk.slots[: at[INSIDE]], desk.held[: at[PAUSED]]
        waiting = lists.waiting[head : min(at[TAIL], head + desk.depth)]
        decided = decide(now, now - pace[HELD_SINCE], desk.step, inside, held, waiting, *own)
        if not are_waiting(out, decided.admitted, len(waiting)):
            return BAD_PLAN
        status = follow(state, lists, pool, desk, time_model, rules, rows, check, decided)
    return status


def _wait_for_work(state, lists, desk, rules):
    """Up to where the policy is to be asked: somebody is there, or has just left."""
    at, pace = desk.at, desk.pace
    take_in(state, lists, desk, rules)
    while at[INSIDE] == 0 and at[HEAD] == at[TAIL] and at[ENDED] == 0:
        pace[NOW] = max(pace[NOW], state.arrival[at[TAIL]])
        take_in(state, lists, desk, rules)
    lay_out(desk, lists, rules)


def _follow(state, lists, pool, desk, time_model, rules, rows, check, decided):
    """vLLM's step as decided, and up to where the next one is planned; returns the status."""
    at, pace = desk.at, desk.pace
    before = at[INSIDE]
    preempted = _over(state, lists, pool, rules, desk, decided)
    at[EVICTIONS] += preempted
    number(state, lists, desk)
    sums, batch = _take_off(state, lists, at[ITERATIONS] % 2, at[INSIDE])
    note(state, lists, rules, desk, decided, before, preempted)
    held = decided.served == 0 and decided.residents > 0
    desk.step[REFUSED] = decided.admitted > 0 and held and batch == 0
    if batch > 0:
        _fly(state, lists, desk, time_model, rules, rows, sums, batch)
    if at[FLIGHTS] >= rules.depth or (at[FLIGHTS] > 0 and batch == 0):
        slot, running = touch_down(lists, desk), at[INSIDE]
        at[BLOCKS], at[HEAD], at[INSIDE], at[ENDED] = _land(
            state, lists, pool, rules, slot, pace[NOW], at[BLOCKS], at[HEAD], running
        )
        at[FINISHED] += at[ENDED]
        at[FLIGHTS] -= 1
    elif at[FLIGHTS] == 0 and (at[INSIDE] > 0 or at[HEAD] < at[TAIL]):  # everybody is held
        began = pace[NOW]
        pace[NOW] += nap(pace[BATCH_TIME], decided.wake - began)
        at[EMPTY] += at[TAIL] == len(state.arrival) or pace[NOW] == began
        if at[EMPTY] > MOST_EMPTY:
            return STRANDED
    if check and not _holds(state, lists, rules, at[BLOCKS], at[HEAD], at[TAIL], at[INSIDE], at[FINISHED]):
        return BROKEN_INVARIANT
    return DONE if at[FINISHED] == len(state.arrival) else GOING_ON


@jit
def _over(state, lists, pool, rules, desk, decided):
    """vLLM's own step over the requests that are to be served; returns how many it preempts."""
    at, free, head, running = desk.at, desk.at[BLOCKS], desk.at[HEAD], desk.at[INSIDE]
    most, budget = chunk_limit(rules, running + at[TAIL] - head), min(rules.tokens, decided.tokens)
    handed = running if decided.ordered < 0 else decided.ordered
    for k in range(handed):
        desk.handed[k] = lists.running[k] if decided.ordered < 0 else desk.work[ORDER, k]
    for i in range(decided.admitted):
        desk.entering[i] = lists.waiting[head + desk.work[ADMIT, i]]
    queue = Lists(lists.waiting, desk.handed, lists.given, lists.givens, lists.end)
    budget, free, head, kept, preempted = serve_running(
        state, queue, pool, rules, budget, most, free, head, at[TAIL], handed
    )
    if preempted > 0:
        kept = np.int64(0)
        for k in range(running):
            r = lists.running[k]
            if state.is_running[r]:
                lists.running[kept] = r
                kept += 1
        at[BLOCKS], at[HEAD], at[INSIDE] = free, head, kept
        return preempted
    admitted = Lists(desk.entering, desk.handed, lists.given, lists.givens, lists.end)
    free, entered, inside = admit_waiting(
        state, admitted, pool, rules, budget, most, free, np.int64(0), decided.admitted, handed
    )
    for k in range(handed, inside):
        lists.running[running] = desk.handed[k]
        running += 1
    close_gaps(lists.waiting, desk.work[ADMIT], entered, head)
    at[BLOCKS], at[HEAD], at[INSIDE] = free, head + entered, running
    return preempted


@jit
def _fly(state, lists, desk, time_model, rules, rows, sums, batch):
    """A batch starts when the one before has ended."""
    at, pace, duration = desk.at, desk.pace, iteration_time(time_model, sums)
    number, start = at[ITERATIONS], max(pace[NOW], pace[DEVICE_FREE])
    pace[DEVICE_FREE] = start + duration
    pace[BUSY] += duration
    lists.end[number % 2], desk.planned[number % 2] = pace[DEVICE_FREE], pace[NOW]
    at[PEAK] = max(at[PEAK], rules.blocks - at[BLOCKS])
    if number < len(rows):
        rows[number, 0], rows[number, 1], rows[number, 2] = start, duration, sums.tokens
        rows[number, 3], rows[number, 5] = batch, at[EVICTIONS]
        rows[number, 4] = _cached_tokens(state, lists, at[INSIDE])
    at[ITERATIONS] += 1
    at[FLIGHTS] += 1
    at[EMPTY] = 0


PARTS = [core, timing, columns, decision, desk_of, pool, rules_of, run, schedule, sys.modules[__name__]]
wait_for_work, follow = core.kept(_wait_for_work, PARTS), core.kept(_follow, PARTS)
