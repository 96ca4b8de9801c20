"""vLLM V1's own scheduler as a simulator: first tokens and completions equal to the real one's, to the last bit.

With ``depth`` 2 a step is planned when the one before the last has ended, while the last one runs. The plan counts the
tokens on their way as computed; what the running step finishes keeps its place and its blocks until it has ended.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.device import timing
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time
from fluidwait.engines import core
from fluidwait.engines.core import EngineError, most_fruitless
from fluidwait.engines.v1 import pool as pool_of
from fluidwait.engines.v1 import rules as rules_of
from fluidwait.engines.v1 import schedule
from fluidwait.engines.v1.pool import new_pool, publish
from fluidwait.engines.v1.rules import Rules, State, new_lists, new_state
from fluidwait.engines.v1.schedule import enqueue, give_up, leave_queue, plan_step
from fluidwait.policies.contract import jit

DONE, STRANDED, BROKEN_INVARIANT, PAUSED, FRUITLESS = range(5)


class Served(NamedTuple):
    """What became of the requests: arrays by request, in arrival order."""

    first_token: np.ndarray  # float64[N], s
    completion: np.ndarray  # float64[N], s
    preemptions: np.ndarray  # int64[N]
    recomputed: np.ndarray  # int64[N], tokens computed and dropped
    iterations: int
    busy: float  # s spent in iterations
    peak_blocks: int  # most KV blocks in use


class Place(NamedTuple):
    """Where a run stands, from one pause to the next."""

    free: int  # KV blocks
    head: int  # of the waiting window
    tail: int  # its end; requests that have arrived
    running: int
    finished: int
    iterations: int  # planned so far
    flights: int  # steps that have not ended
    empty: int  # steps in a row that planned nothing
    evictions: int
    fruitless: int  # evictions since a request last came or completed
    peak: int  # most KV blocks in use
    ended: int  # requests that the step that ended last has completed, until the next one is planned
    now: float  # s
    device_free: float  # s, when the last step ends
    busy: float  # s spent in iterations


class Notes(NamedTuple):
    """What an observer learns besides: of a run that nobody observes these are empty."""

    taken_in: np.ndarray  # float64[N], s, when the engine took the request in: at the first step after its arrival
    flying: np.ndarray  # float64[2, 3], of the steps in flight: planned (s), tokens, KV tokens of the batch after it
    landed: np.ndarray  # float64[steps, 4], of those that ended: the same, and when (s)
    filled: np.ndarray  # int64[1], rows of ``landed``


def new_place(rules: Rules) -> Place:
    """The beginning of a run."""
    return Place(rules.blocks, *[0] * 11, *[0.0] * 3)


def new_notes(requests: int = 0, steps: int = 0) -> Notes:
    """Room for so many requests, and steps between two pauses."""
    return Notes(np.zeros(requests), np.zeros((2, 3)), np.zeros((steps, 4)), np.zeros(1, dtype=np.int64))


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
    run = Serving(requests, time_model, rules, priority=priority, hashes=hashes, rows=rows, check=check)
    run.until(np.inf)
    return run.served()


class Serving:
    """A run that can be paused; arguments and errors as of :func:`serve`.

    Attributes:
        rules: those in force; the tokens of a batch, the watermark and, below those of the beginning, the running
            requests may change at a pause.
        notes: for an observer, who asks for ``noted`` steps between two pauses.
    """

    def __init__(
        self, requests, time_model, rules: Rules, *, priority=None, hashes=None, rows=None, check=False, noted=0
    ):
        check_lengths(requests, rules)
        self.rules, self.state = rules, new_state(requests, priority)
        n = len(self.state.arrival)
        self._fixed = (self.state, new_lists(n, rules), new_pool(self.state, rules, hashes), time_model)
        self._log = np.empty((0, 6)) if rows is None else rows
        self._check = check
        self.notes = new_notes(n if noted else 0, noted)
        self.place = new_place(rules)

    def until(self, when: float) -> bool:
        """Go on until a step is about to be planned at ``when`` (s) or later, or the notes are full.

        Returns True when every request has completed.
        """
        self.notes.filled[0] = 0
        status, place = serve_until(*self._fixed, self.rules, self._log, self._check, self.notes, self.place, when)
        self.place = Place(*place)
        if status in (STRANDED, BROKEN_INVARIANT, FRUITLESS):
            raise EngineError(_explain(status, self.place.now, self.state))
        return status == DONE

    def running(self) -> np.ndarray:
        """Prompt tokens and delivered tokens of the running requests in their order, int64[N, 2]."""
        state, lists, *_ = self._fixed
        requests = lists.running[: self.place.running]
        return np.column_stack([state.prompt[requests], state.delivered[requests]])

    def served(self) -> Served:
        """What became of the requests."""
        state, place = self.state, self.place
        times = (state.first_token, state.completion)
        return Served(*times, state.preemptions, state.recomputed, place.iterations, place.busy, place.peak)


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
    if status == FRUITLESS:
        return (
            f"vLLM's rules: no end in sight at t = {at:.6g} s: {most_fruitless(state)} evictions since the last "
            "arrival and completion; running requests evict each other for ever"
        )
    return f"vLLM's rules: invariant violated at t = {at:.6g} s (conservation of requests or blocks)"


def _run(state, lists, pool, time_model, rules, rows, check, notes, place, until):
    n, zero = len(state.arrival), _zero()
    free, head, tail, running, finished = place.free, place.head, place.tail, place.running, place.finished
    iterations, flights, empty, evictions = place.iterations, place.flights, place.empty, place.evictions
    peak, ended, now, device_free, busy = place.peak, place.ended, place.now, place.device_free, place.busy
    fruitless, most = place.fruitless, most_fruitless(state)
    observed, status = len(notes.landed) > 0, DONE
    while finished < n:
        while tail < n and state.arrival[tail] <= now:
            if observed:
                notes.taken_in[tail] = now
            tail = enqueue(state, lists, rules, tail, head, tail)
            fruitless = zero
        asked = running > 0 or head < tail or ended > 0
        if asked and (now >= until or (observed and notes.filled[0] == len(notes.landed))):
            status = PAUSED
            break
        free, head, running, preempted = plan_step(state, lists, pool, rules, free, head, tail, running)
        evictions += preempted
        fruitless += preempted
        if fruitless > most:
            status = FRUITLESS
            break
        ended = zero
        slot = iterations % 2
        sums, batch = _take_off(state, lists, slot, running)
        if batch > 0:
            duration = iteration_time(time_model, sums)
            start = max(now, device_free)
            device_free = start + duration
            busy += duration
            lists.end[slot] = device_free
            peak = max(peak, rules.blocks - free)
            if observed:
                notes.flying[slot, 0], notes.flying[slot, 1] = now, sums.tokens
                notes.flying[slot, 2] = sums.kv_tokens
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
            free, head, running, ended = _land(state, lists, pool, rules, slot, now, free, head, running)
            finished += ended
            if ended > 0:
                fruitless = zero
            flights -= 1
            if observed:
                _note(notes, slot, now)
        elif flights == 0:
            if head == tail and running == 0:
                now = max(now, state.arrival[tail])
            else:  # a request that was alone has preempted itself, and comes back at once
                empty += 1
                if empty > 2:
                    status = STRANDED
                    break
        if check and not _holds(state, lists, rules, free, head, tail, running, finished):
            status = BROKEN_INVARIANT
            break
    counts = (free, head, tail, running, finished, iterations, flights, empty, evictions, fruitless, peak, ended)
    return status, (*counts, now, device_free, busy)


@jit
def _zero():
    """Of the type of the counts: a literal 0 has one of its own, and what is called with it is compiled twice."""
    return np.int64(0)


@jit
def _note(notes, slot, now):
    k = notes.filled[0]
    for column in range(3):
        notes.landed[k, column] = notes.flying[slot, column]
    notes.landed[k, 3] = now
    notes.filled[0] = k + 1


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


PARTS = [core, timing, pool_of, rules_of, schedule, sys.modules[__name__]]
serve_until = core.kept(_run, PARTS)
