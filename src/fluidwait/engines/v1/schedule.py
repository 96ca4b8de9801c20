"""One step of vLLM V1's scheduler, in compiled code: who gets how many tokens, who is preempted, who is admitted.

The running requests come first, in order. One that finds no free block preempts the last of them (under priorities the
least urgent) until it has its blocks or is itself the victim; then nobody is admitted. Blocks are taken as tokens are
computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fluidwait.engines.v1.pool import extend, hits, publish, release, take_over
from fluidwait.policies.contract import blocks_for, jit


@jit
def is_leaving(state, r):
    """True when all tokens of a running request are computed or on their way: it keeps place and blocks until then."""
    return state.generated[r] >= state.output[r]


@jit
def more_urgent(state, r, other):
    """Whether ``r`` goes before ``other`` under priorities: smaller number, then earlier arrival."""
    if state.priority[r] != state.priority[other]:
        return state.priority[r] < state.priority[other]
    if state.arrival[r] != state.arrival[other]:
        return state.arrival[r] < state.arrival[other]
    return r < other


@jit
def enqueue(state, lists, rules, r, head, tail):
    """Put an arrival into the waiting window: at its end, under priorities at its place; returns the new tail."""
    waiting, k = lists.waiting, tail
    if rules.by_priority:
        while k > head and more_urgent(state, r, waiting[k - 1]):
            waiting[k] = waiting[k - 1]
            k -= 1
    waiting[k] = r
    return tail + 1


@jit
def put_back(state, lists, rules, r, head, tail):
    """Put a preempted request into the waiting window: at its head, under priorities at its place; the new head."""
    waiting, k = lists.waiting, head - 1
    if rules.by_priority:
        while k + 1 < tail and more_urgent(state, waiting[k + 1], r):
            waiting[k] = waiting[k + 1]
            k += 1
    waiting[k] = r
    return head - 1


@jit
def leave_queue(lists, r, head):
    """Take a request out of the waiting window; returns the new head."""
    waiting, k = lists.waiting, head
    while waiting[k] != r:
        k += 1
    while k > head:
        waiting[k] = waiting[k - 1]
        k -= 1
    return head + 1


@jit
def victim(state, lists, rules, running):
    """Position of the running request to preempt: the last, under priorities the least urgent."""
    if not rules.by_priority:
        return running - 1
    last: Any = np.int64(0)
    for k in range(1, running):
        r, worst = lists.running[k], lists.running[last]
        if state.priority[r] > state.priority[worst] or (
            state.priority[r] == state.priority[worst] and state.arrival[r] > state.arrival[worst]
        ):
            last = k
    return last


@jit
def give_up(state, pool, rules, r):
    """Take its blocks from a running request; returns how many come free."""
    freed = release(pool, r, state.held[r]) if rules.caching else state.held[r]
    state.held[r] = 0
    return freed


@jit
def preempt(state, pool, rules, r):
    """Drop the KV cache of a running request; returns the blocks that come free."""
    freed = give_up(state, pool, rules, r)
    state.recomputed[r] += state.cached[r]
    state.goal[r] = state.prompt[r] + state.generated[r]
    state.cached[r] = 0
    state.planned[r] = 0
    state.is_running[r] = False
    state.preemptions[r] += 1
    return freed


@jit
def chunk_limit(rules, everyone):
    """Prefill tokens of a request and batch at most; ``everyone`` is the number of requests that run or wait."""
    return rules.chunk if rules.chunk > 0 and everyone > 1 else rules.tokens


@jit
def serve_running(state, lists, pool, rules, budget, most, free, head, tail, running):
    """Give tokens to the running requests, a prefill at most ``most``; those that are preempted go back to the queue.

    Returns (budget left, free blocks, head, running, preempted).
    """
    preempted, k = 0, 0
    while k < running and budget > 0:
        r = lists.running[k]
        if is_leaving(state, r):
            k += 1
            continue
        cached, goal = state.cached[r], state.goal[r]
        tokens = min(goal - cached, most, budget) if cached < goal else 1
        wanted = blocks_for(cached + tokens, rules.block_size) - state.held[r]
        while wanted > free:
            v = victim(state, lists, rules, running)
            gone = lists.running[v]
            for j in range(v, running - 1):
                lists.running[j] = lists.running[j + 1]
            running -= 1
            if v < k:
                k -= 1
            budget += state.planned[gone]
            free += preempt(state, pool, rules, gone)
            head = put_back(state, lists, rules, gone, head, tail)
            preempted += 1
            if gone == r:
                return budget, free, head, running, preempted
        if wanted > 0:
            if rules.caching:
                extend(pool, r, state.held[r], state.held[r] + wanted)
            state.held[r] += wanted
            free -= wanted
        if rules.caching:  # tokens that it does not know yet, being on their way, have no hash
            publish(pool, r, min(cached + tokens, state.prompt[r] + state.delivered[r]) // rules.block_size)
        state.planned[r] = tokens
        budget -= tokens
        k += 1
    return budget, free, head, running, preempted


@jit
def admit_waiting(state, lists, pool, rules, budget, most, free, head, tail, running):
    """Admit from the head of the queue while seats, tokens and memory last, with at most ``most`` tokens each.

    Returns (free blocks, head, running).
    """
    while budget > 0 and head < tail and running < rules.requests:
        r = lists.waiting[head]
        goal, found, idle = state.goal[r], 0, 0
        if rules.caching:  # the last token is computed in any case
            found, idle = hits(pool, r, (goal - 1) // rules.block_size)
        cached = found * rules.block_size
        tokens = min(goal - cached, most, budget)
        spare = rules.watermark if running > 0 else 0
        held = blocks_for(cached + tokens, rules.block_size)
        needed = (blocks_for(goal, rules.block_size) if rules.whole else held) - found + idle + spare
        if needed > free:
            break
        if rules.caching:
            take_over(pool, r, found)
            extend(pool, r, found, held)
            publish(pool, r, min(cached + tokens, state.prompt[r] + state.delivered[r]) // rules.block_size)
        state.cached[r] = cached
        state.held[r] = held
        free -= held - found + idle
        state.planned[r] = tokens
        budget -= tokens
        state.is_running[r] = True
        lists.running[running] = r
        running += 1
        head += 1
    return free, head, running


@jit
def plan_step(state, lists, pool, rules, free, head, tail, running):
    """A step; the tokens are in ``state.planned``. Returns (free blocks, head, running, preempted)."""
    budget: Any = min(rules.tokens, max(rules.batch, running))
    most = chunk_limit(rules, running + tail - head)
    budget, free, head, running, preempted = serve_running(
        state, lists, pool, rules, budget, most, free, head, tail, running
    )
    if preempted == 0:
        free, head, running = admit_waiting(state, lists, pool, rules, budget, most, free, head, tail, running)
    return free, head, running, preempted
