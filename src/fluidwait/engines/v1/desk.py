"""What a policy that plans under vLLM's rules decides with: columns, rules in numbers, and times of the last steps.

The simulator's counterpart of the plug-in's book, on arrays that compiled code brings up to date.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidwait.engines.v1.columns import (
    ALIVE,
    ARRIVAL,
    CACHED,
    GENERATED,
    GOAL,
    HELD,
    HELD_FOR,
    KIND,
    LIMIT,
    PRIORITY,
    ROWS,
    SENT,
    SERVICE,
    STAGE,
    TIMES,
)
from fluidwait.engines.v1.decision import (
    ADMIT,
    BATCH_TOKENS,
    BLOCK_SIZE,
    BY_PRIORITY,
    CHUNK,
    CHUNK_OF,
    EXTRA,
    FREE,
    ROOM,
    RULE_ROWS,
    RUNNING,
    STEP_ROWS,
    STOCK_CHUNK,
    TOKENS,
    WATERMARK,
    WATERMARK_SHARE,
    WHOLE_PROMPTS,
    WORK_ROWS,
    came_at,
    longer_mean,
)
from fluidwait.engines.v1.rules import NULL_BLOCK, Rules, State, new_state
from fluidwait.engines.v1.schedule import enqueue
from fluidwait.policies.contract import NO_LIMIT, Plan, blocks_for, jit

# when the last step was planned, since when some are held, when the latest batch ended; how long batches take
LAST_STEP, HELD_SINCE, LAST_END, BATCH_TIME = 0, 1, 2, 3
PACE_ROWS = 4


class Desk(NamedTuple):
    """What a policy decides with, and where; the columns share their memory with the state of the requests."""

    counts: np.ndarray  # int64[ROWS, N]
    times: np.ndarray  # float64[TIMES, N], s
    rules: np.ndarray  # int64[RULE_ROWS]
    last_stage: np.ndarray  # int64 by type
    step: np.ndarray  # int64[STEP_ROWS]
    work: np.ndarray  # int64[WORK_ROWS, >= residents, >= waiting]
    slots: np.ndarray  # uint64, those that run, as many as there are
    residents: np.ndarray  # uint64, work space
    held: (
        np.ndarray
    )  # uint64, residents that the last plan paused and no batch in flight computes for, the first so many
    handed: np.ndarray  # uint64, whom vLLM's step sees as running
    entering: np.ndarray  # uint64, whom it sees as waiting
    batch: np.ndarray  # int64[N], number of the last batch that a request took part in, -1 before the first
    planned: np.ndarray  # float64[2], s, when the batches in flight were planned
    pace: np.ndarray  # float64[PACE_ROWS], s
    depth: int  # waiting requests that the policy looks at


def with_chunks(policy, knobs: Any, rules: Rules) -> Rules:
    """The rules with the policy's limit on the prefill of a request and batch, which is then vLLM's own."""
    chunk = min(rules.chunk if rules.chunk > 0 else NO_LIMIT, policy.limits(knobs).chunk)
    return rules._replace(chunk=chunk if chunk < NO_LIMIT else 0)


def new_desk(requests, policy, knobs: Any, rules: Rules, priority: np.ndarray | None) -> Desk:
    """Nobody has arrived."""
    n, within, blocks = len(requests.arrival), with_chunks(policy, knobs, rules), rules.blocks + NULL_BLOCK
    counts, times = np.zeros((ROWS, n), dtype=np.int64), np.zeros((TIMES, n))
    counts[LIMIT], counts[KIND], counts[GOAL] = requests.output, requests.kind, requests.prompt
    counts[PRIORITY] = 0 if priority is None else priority
    times[SENT] = requests.arrival
    numbers = np.zeros(RULE_ROWS, dtype=np.int64)
    numbers[EXTRA] = blocks if rules.caching else 0
    numbers[WATERMARK], numbers[BLOCK_SIZE] = int(WATERMARK_SHARE * blocks), rules.block_size
    numbers[BATCH_TOKENS], numbers[STOCK_CHUNK] = rules.tokens, rules.chunk or NO_LIMIT
    numbers[CHUNK], numbers[BY_PRIORITY] = within.chunk or NO_LIMIT, rules.by_priority
    numbers[WHOLE_PROMPTS] = not policy.limits(knobs).splits_prompts
    most, depth = min(n, rules.requests) + 1, min(max(policy.queue_depth(knobs), 1), n)
    lists = (np.zeros(size, dtype=np.uint64) for size in (most, most, most, most, depth))
    stages = policy.longest_output(knobs, np.arange(int(np.max(requests.kind)) + 1))
    step, work = np.zeros(STEP_ROWS, dtype=np.int64), np.zeros((WORK_ROWS, max(most, depth)), dtype=np.int64)
    return Desk(
        counts, times, numbers, stages, step, work, *lists, np.full(n, -1), np.zeros(2), np.zeros(PACE_ROWS), depth
    )


def state_on(desk: Desk, requests) -> State:
    """The state of the requests, on the columns that the policy sees where these are the same."""
    counts = desk.counts
    return new_state(requests)._replace(
        arrival=desk.times[SENT],
        priority=counts[PRIORITY],
        output=counts[LIMIT],
        goal=counts[GOAL],
        cached=counts[CACHED],
        generated=counts[GENERATED],
    )


@jit
def take_in(state, lists, desk, rules, now, head, tail):
    """The arrivals up to ``now`` (s) come into the queue; returns its new tail."""
    while tail < len(state.arrival) and state.arrival[tail] <= now:
        desk.times[ARRIVAL, tail] = came_at(now, now - state.arrival[tail], desk.pace[LAST_STEP])
        desk.counts[ALIVE, tail] = 1
        tail = enqueue(state, lists, rules, tail, head, tail)
    return tail


@jit
def lay_out(desk, lists, rules, now, free, running):
    """What a decision at ``now`` (s) needs to know of the engine."""
    desk.pace[LAST_STEP] = now
    desk.step[RUNNING], desk.step[FREE], desk.step[ROOM] = running, free, rules.requests - running
    for k in range(running):
        desk.slots[k] = lists.running[k]


@jit
def plan_on(desk):
    return Plan(desk.work[TOKENS], desk.work[ADMIT], desk.work[CHUNK_OF])


@jit
def number(state, lists, desk, running, batch):
    """Those that get tokens take part in this batch."""
    for k in range(running):
        r = lists.running[k]
        if state.planned[r] > 0:
            desk.batch[r] = batch


@jit
def note(state, lists, rules, desk, decided, before, running, preempted, batch, landed, now):
    """Bring the columns to the state after a step; returns how many the plan holds and no batch in flight computes for.

    Args:
        before, running: requests in service before and after it.
        batch: its number; ``landed`` is that of the oldest batch in flight.
    """
    counts, times = desk.counts, desk.times
    if preempted > 0:
        for k in range(before):
            r = desk.slots[k]
            if not state.is_running[r]:
                counts[HELD, r], counts[STAGE, r] = 0, state.generated[r]
    else:
        for k in range(before, running):  # they enter, and were held up to now, but for earlier service
            r = lists.running[k]
            times[HELD_FOR, r] = now - times[ARRIVAL, r] - times[SERVICE, r]
    for k in range(running):
        r = lists.running[k]
        if desk.batch[r] == batch:
            counts[HELD, r] = blocks_for(max(state.goal[r], state.cached[r]), rules.block_size)
    held = np.int64(0)
    for k in range(decided.residents):
        r = desk.residents[k]
        if desk.work[TOKENS, k] == 0 and desk.batch[r] < landed:
            desk.held[held] = r
            held += 1
    desk.pace[HELD_SINCE] = now
    return held


@jit
def touch_down(lists, desk, slot, now):
    """The end (s) of a step that was planned into this slot; how long batches take on average is brought up to date."""
    pace, now = desk.pace, max(now, lists.end[slot])
    pace[BATCH_TIME] = longer_mean(pace[BATCH_TIME], now - max(desk.planned[slot], pace[LAST_END]))
    pace[LAST_END] = now
    return now
