"""The compiled simulator: one pass over iterations, exact and deterministic.

An iteration starts at the decision epoch, lasts ``iteration_time`` of the batch, and ends with every effect of the
batch at once: tokens appear, finished requests leave and free their memory. Decision epochs are the ends of iterations
and, while the server is idle, arrivals and the times at which the policy asked to be woken.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fluidwait.device import timing
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time
from fluidwait.engines import core
from fluidwait.engines.core import EngineError, Semantics, State, admission_blocks, close_gaps, decide, new_state
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.learning import Learned, check_learns, serve_learning
from fluidwait.engines.v1 import run as vllm
from fluidwait.engines.v1.limits import limited, plans
from fluidwait.engines.v1.planned import serve_planned
from fluidwait.engines.v1.rules import Rules, known_blocks
from fluidwait.policies.contract import jit

DONE, STRANDED, OVERCOMMITTED, BAD_PLAN, BROKEN_INVARIANT, FRUITLESS = range(6)
LOG_COLUMNS = ("start", "duration", "tokens", "batch_size", "kv_tokens", "evictions")
"""Of an iteration; kv_tokens of all residents at its end, before the finished ones leave; evictions since time 0."""


class Run(NamedTuple):
    """The outcome of a run. Arrays by request, in arrival order."""

    first_token: np.ndarray  # float64[N], s
    completion: np.ndarray  # float64[N], s
    evictions: np.ndarray  # int64[N]
    iterations: int
    busy: float  # s spent in iterations
    peak_blocks: int  # most KV blocks in use during any iteration
    log: np.ndarray | None  # float64[iterations, 6] with LOG_COLUMNS, when asked for
    recomputed: np.ndarray | None = None  # int64[N], tokens computed again after an eviction; where the engine tells


def simulate(
    requests,
    policy,
    knobs: Any,
    time_model: TimeModel,
    semantics: Semantics | Rules,
    *,
    log: bool = False,
    check: bool = False,
) -> Run:
    """Run ``requests`` (arrival, prompt, output, kind; N each) through ``policy`` until every one has completed.

    Args:
        policy: a :class:`fluidwait.policies.Policy`.
        semantics: how memory is counted; :class:`~fluidwait.engines.v1.rules.Rules` for vLLM's own scheduler.
        knobs: what ``policy.prepare`` returned; :class:`~fluidwait.engines.learning.Learned` under vLLM's rules for
            the plug-in's own estimates.
        log: keep one row per iteration.
        check: verify conservation, capacity and causality at every iteration (about half the speed).

    Raises:
        ConfigError: a request can never fit the memory.
        EngineError: a request was left behind, the policy broke the contract, or an invariant failed.
    """
    if not isinstance(knobs, Learned):
        semantics = reservation(policy, knobs, semantics)
        check_requests(requests, policy, knobs, semantics)
    else:
        check_learns(policy, semantics)
    once: Any = _as_vllm if isinstance(semantics, Rules) else _once
    rows = np.empty((0, len(LOG_COLUMNS)))
    run = once(requests, policy, knobs, time_model, semantics, rows, check)
    if not log:
        return run
    # The compiled code cannot allocate, so a first run counts the iterations and a second, the same, logs them.
    rows = np.empty((run.iterations, len(LOG_COLUMNS)))
    return once(requests, policy, knobs, time_model, semantics, rows, check)._replace(log=rows)


def _as_vllm(requests, policy, knobs, time_model, rules: Rules, rows, check) -> Run:
    """vLLM's own scheduler within the limits of the policy, or over the requests that it plans for."""
    how: dict[str, Any] = {"hashes": known_blocks(requests, rules), "rows": rows, "check": check}
    if isinstance(knobs, Learned):
        served = serve_learning(requests, policy, knobs, time_model, rules, **how)
    elif plans(policy, knobs):
        served = serve_planned(requests, policy, knobs, time_model, rules, **how)
    else:
        served = vllm.serve(requests, time_model, limited(policy, knobs, rules), **how)
    times = (served.first_token, served.completion)
    run = Run(*times, served.preemptions, served.iterations, served.busy, served.peak_blocks, None)
    return run._replace(recomputed=served.recomputed)


def _once(requests, policy, knobs, time_model, semantics, rows, check) -> Run:
    state = new_state(requests, semantics)
    memory = np.zeros(policy.memory_size(knobs), dtype=np.int64)
    status, where, at, iterations, busy, peak = compiled(policy.module)(
        knobs, memory, state, time_model, semantics, rows, check
    )
    if status != DONE:
        raise EngineError(explain(status, where, at, policy.use, state))
    times = (state.first_token, state.completion)
    return Run(*times, state.evictions, iterations, busy, peak, None, state.recomputed)


@cache
def compiled(module):
    """The simulator specialised to one policy; compiled on the first call ever, then read from Numba's cache."""
    return core.specialise(_run, module, [core, timing, sys.modules[__name__]])


def _run(knobs, memory, state, time_model, semantics, rows, check):
    n = len(state.arrival)
    zero: Any = np.int64(0)  # a literal 0 has a type of its own: what is called with it would be compiled twice
    free, head, tail, residents, finished, iterations = semantics.blocks, zero, zero, zero, zero, zero
    now, busy, kv_tokens, peak, evictions = 0.0, 0.0, zero, zero, zero
    fruitless, most_fruitless = zero, core.most_fruitless(state)
    while finished < n:
        while tail < n and state.arrival[tail] <= now:
            state.waiting[tail] = tail
            tail += 1
            fruitless = zero
        if fruitless > most_fruitless:
            return FRUITLESS, first(state, head, tail, residents), now, iterations, busy, peak
        before = residents
        admitted, wake, free, head, residents = decide(
            knobs, memory, state, semantics, now, tail == n, free, head, tail, residents
        )
        evictions += before - residents
        if residents < before:  # evictions dropped cached tokens: count again
            kv_tokens = 0
            for k in range(residents):
                kv_tokens += state.cached[state.resident[k]]
            fruitless += 1
        duration, tokens, batch, free, head, residents, kv_tokens, status = _start(
            state, time_model, semantics, admitted, free, head, residents, kv_tokens
        )
        if status != DONE:
            return status, -1, now, iterations, busy, peak
        if batch == 0:
            following = min(wake, state.arrival[tail] if tail < n else np.inf)
            if not following > now or following == np.inf:
                return STRANDED, first(state, head, tail, residents), now, iterations, busy, peak
            fruitless += 1
            now = following
            continue
        peak = max(peak, semantics.blocks - free)
        if iterations < len(rows):
            rows[iterations, 0], rows[iterations, 1], rows[iterations, 2] = now, duration, tokens
            rows[iterations, 3], rows[iterations, 4], rows[iterations, 5] = batch, kv_tokens, evictions
        now += duration
        busy += duration
        iterations += 1
        free, residents, left, left_tokens = _finish(state, semantics, now, duration, free, residents)
        finished += left
        kv_tokens -= left_tokens
        if left > 0:
            fruitless = zero
        if check and not _holds(state, semantics, free, head, tail, residents, finished, kv_tokens, now):
            return BROKEN_INVARIANT, -1, now, iterations, busy, peak
    return DONE, -1, now, iterations, busy, peak


@jit
def _start(state, time_model, semantics, admitted, free, head, residents, kv_tokens):
    """Carry out the plan up to the end of the iteration: memory, residency, and the time that the batch takes."""
    zero: Any = np.int64(0)
    tokens, batch, kv, decodes, decode_context, longest = zero, zero, zero, zero, zero, zero
    prefills, prefill_tokens, prefill_squares, prefill_context = zero, zero, zero, zero
    status = BAD_PLAN if admitted < 0 else DONE
    for k in range(residents):
        q = state.tokens[k]
        if q == 0:
            continue
        r = state.resident[k]
        cached = state.cached[r]
        if cached < state.goal[r]:
            if q < 0 or q > state.goal[r] - cached:
                status = BAD_PLAN
            prefills += 1
            prefill_tokens += q
            prefill_squares += q * q
            prefill_context += q * cached
        else:
            if q != 1:
                status = BAD_PLAN
            decodes += 1
            decode_context += cached + 1
            if cached >= state.held[r] * semantics.block_size:
                state.held[r] += 1
                free -= 1
        batch += 1
        tokens += q
        kv += cached + q
        longest = max(longest, cached + q)
    for i in range(admitted):
        r, q = state.waiting[head + state.admit[i]], state.chunk[i]
        cached = state.cached[r]
        if q < 1 or q > state.goal[r] - cached:
            status = BAD_PLAN
        state.held[r] = admission_blocks(semantics, state.goal[r])
        free -= state.held[r]
        if free < 0:
            break
        state.resident[residents] = r
        state.tokens[residents] = q
        residents += 1
        batch += 1
        tokens += q
        kv += cached + q
        longest = max(longest, cached + q)
        kv_tokens += cached
        if 0 < cached == state.goal[r] - 1:  # prefilled elsewhere
            decodes += 1
            decode_context += cached + 1
        else:
            prefills += 1
            prefill_tokens += q
            prefill_squares += q * q
            prefill_context += q * cached
    close_gaps(state.waiting, state.admit, admitted, head)
    if free < 0 and status == DONE:
        status = OVERCOMMITTED
    prefilled = (prefills, prefill_tokens, prefill_squares, prefill_context)
    sums = BatchSums(tokens, kv, *prefilled, decodes, decode_context, longest)
    duration = iteration_time(time_model, sums) if batch > 0 else 0.0
    return duration, tokens, batch, free, head + admitted, residents, kv_tokens + tokens, status


@jit
def _finish(state, semantics, now, duration, free, residents):
    """Effects at the end of an iteration; requests that are done leave and the others close ranks."""
    kept, left, left_tokens = 0, 0, 0
    for k in range(residents):
        r, q = state.resident[k], state.tokens[k]
        if q > 0:
            prefilling = state.cached[r] < state.goal[r]
            state.cached[r] += q
            state.service[r] += duration
            if not prefilling:
                state.generated[r] += 1
            elif state.cached[r] == state.goal[r]:
                if np.isnan(state.first_token[r]):
                    state.first_token[r] = now
                if semantics.prefill_emits:
                    state.generated[r] += 1
            if state.generated[r] == state.output[r]:
                state.completion[r] = now
                free += state.held[r]
                state.held[r] = 0
                left += 1
                left_tokens += state.cached[r]
                continue
        state.resident[kept] = r
        kept += 1
    return free, kept, left, left_tokens


@jit
def _holds(state, semantics, free, head, tail, residents, finished, kv_tokens, now):
    """Conservation of requests, blocks and tokens; memory within capacity; nothing before it arrived."""
    blocks, tokens = 0, 0
    for k in range(residents):
        r = state.resident[k]
        blocks += state.held[r]
        tokens += state.cached[r]
        if state.arrival[r] > now or not np.isnan(state.completion[r]):
            return False
        if state.cached[r] > state.held[r] * semantics.block_size or state.generated[r] > state.output[r]:
            return False
    conserved = residents + (tail - head) + finished == tail
    return conserved and free >= 0 and blocks + free == semantics.blocks and tokens == kv_tokens


@jit
def first(state, head, tail, residents):
    """The oldest request in service, else the first that waits; -1 without any."""
    if residents > 0:
        return np.int64(state.resident[0])
    return np.int64(state.waiting[head]) if head < tail else -1


def explain(status: int, where: int, at: float, policy: str, state: State) -> str:
    """One line that says why a run ended at time ``at`` (s) with this status; ``where`` is the request concerned."""
    when = f"at t = {at:.6g} s"
    if status == STRANDED:
        return (
            f"{policy}: requests stranded {when}: no arrival and no wake-up is left, request {where} "
            f"(prompt {state.prompt[where]}, {state.generated[where]} tokens generated) would wait for ever"
        )
    if status == FRUITLESS:
        return (
            f"{policy}: no end in sight {when}: {core.most_fruitless(state)} decisions that evicted or idled since the "
            f"last arrival and completion, request {where} (prompt {state.prompt[where]}, {state.generated[where]} "
            "tokens generated) does not come to its end"
        )
    if status == OVERCOMMITTED:
        return f"{policy}: the plan {when} admits more than the free KV blocks hold"
    if status == BAD_PLAN:
        reason = "admits what does not wait, evicts who is not resident, or tokens out of range"
        return f"{policy}: the plan {when} breaks the contract ({reason})"
    return f"{policy}: invariant violated {when} (conservation of requests, blocks or tokens; causality)"
