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
    MAX_OUTPUT,
    PREDICTED,
    PRIORITY,
    ROWS,
    SENT,
    SERVICE,
    STAGE,
    TIMES,
)
from fluidwait.engines.v1.decision import (
    BATCH_TOKENS,
    BLOCK_SIZE,
    BY_PRIORITY,
    CHUNK,
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
from fluidwait.policies.contract import NO_LIMIT, blocks_for, jit
from fluidwait.workload import most_output, predicted_output

# where a run stands, int64
BLOCKS = 0  # free KV blocks
HEAD, TAIL = 1, 2  # of the waiting window; the tail is the number of arrivals so far
INSIDE, FINISHED = 3, 4  # requests in service, and completed
ITERATIONS, FLIGHTS = 5, 6  # batches planned, and those of them that have not ended
EMPTY = 7  # steps in a row that served nobody, see MOST_EMPTY of the loop
EVICTIONS, PEAK = 8, 9  # so far; most KV blocks in use
ENDED = 10  # requests that the batch that ended last has completed, until the next step
PAUSED = 11  # requests in Desk.held
AT_ROWS = 12

# times, float64, s
NOW, DEVICE_FREE, BUSY = 0, 1, 2  # when the last batch ends; spent in batches
LAST_STEP, LAST_END = 3, 4  # when a step was last planned, and a batch last ended
HELD_SINCE, BATCH_TIME = 5, 6  # of those in Desk.held; the mean time of the last batches
PACE_ROWS = 7


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
    at: np.ndarray  # int64[AT_ROWS]
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
    counts[MAX_OUTPUT], counts[PREDICTED] = most_output(requests), predicted_output(requests)
    counts[PRIORITY] = 0 if priority is None else priority
    times[SENT] = requests.arrival
    numbers = np.zeros(RULE_ROWS, dtype=np.int64)
    numbers[EXTRA] = blocks if rules.caching else 0
    numbers[WATERMARK], numbers[BLOCK_SIZE] = int(WATERMARK_SHARE * blocks), rules.block_size
    numbers[BATCH_TOKENS], numbers[STOCK_CHUNK] = rules.tokens, rules.chunk or NO_LIMIT
    numbers[CHUNK], numbers[BY_PRIORITY] = within.chunk or NO_LIMIT, rules.by_priority
    numbers[WHOLE_PROMPTS] = not policy.limits(knobs).splits_prompts
    most, depth = min(n, rules.requests) + 1, min(max(policy.queue_depth(knobs), 1), n)
    slots, residents, held, handed = (np.zeros(most, dtype=np.uint64) for _ in range(4))
    entering = np.zeros(depth, dtype=np.uint64)
    stages = policy.longest_output(knobs, np.arange(int(np.max(requests.kind)) + 1))
    step, work = np.zeros(STEP_ROWS, dtype=np.int64), np.zeros((WORK_ROWS, max(most, depth)), dtype=np.int64)
    at, pace, batch = np.zeros(AT_ROWS, dtype=np.int64), np.zeros(PACE_ROWS), np.full(n, -1)
    at[BLOCKS] = rules.blocks
    lists = (slots, residents, held, handed, entering)
    return Desk(counts, times, numbers, stages, step, work, *lists, batch, np.zeros(2), at, pace, depth)


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
def take_in(state, lists, desk, rules):
    """The arrivals up to now come into the queue."""
    now, tail = desk.pace[NOW], desk.at[TAIL]
    while tail < len(state.arrival) and state.arrival[tail] <= now:
        desk.times[ARRIVAL, tail] = came_at(now, now - state.arrival[tail], desk.pace[LAST_STEP])
        desk.counts[ALIVE, tail] = 1
        tail = enqueue(state, lists, rules, tail, desk.at[HEAD], tail)
    desk.at[TAIL] = tail


@jit
def lay_out(desk, lists, rules):
    """What a decision needs to know of the engine."""
    at, running = desk.at, desk.at[INSIDE]
    desk.pace[LAST_STEP] = desk.pace[NOW]
    at[ENDED] = 0
    desk.step[RUNNING], desk.step[FREE], desk.step[ROOM] = running, at[BLOCKS], rules.requests - running
    for k in range(running):
        desk.slots[k] = lists.running[k]


@jit
def number(state, lists, desk):
    """Those that get tokens take part in the next batch."""
    for k in range(desk.at[INSIDE]):
        r = lists.running[k]
        if state.planned[r] > 0:
            desk.batch[r] = desk.at[ITERATIONS]


@jit
def note(state, lists, rules, desk, decided, before, preempted):
    """Bring the columns to the state after a step, and list whom the plan holds and no batch in flight computes for.

    Args:
        before: requests in service before it, ``desk.slots``.
    """
    counts, times, at, now = desk.counts, desk.times, desk.at, desk.pace[NOW]
    if preempted > 0:
        for k in range(before):
            r = desk.slots[k]
            if not state.is_running[r]:
                counts[HELD, r], counts[STAGE, r] = 0, state.generated[r]
    else:
        for k in range(before, at[INSIDE]):  # they enter, and were held up to now, but for earlier service
            r = lists.running[k]
            times[HELD_FOR, r] = now - times[ARRIVAL, r] - times[SERVICE, r]
    for k in range(at[INSIDE]):
        r = lists.running[k]
        if desk.batch[r] == at[ITERATIONS]:
            counts[HELD, r] = blocks_for(max(state.goal[r], state.cached[r]), rules.block_size)
    at[PAUSED] = 0
    for k in range(decided.residents):
        r = desk.residents[k]
        if desk.work[TOKENS, k] == 0 and desk.batch[r] < at[ITERATIONS] - at[FLIGHTS]:
            desk.held[at[PAUSED]] = r
            at[PAUSED] += 1
    desk.pace[HELD_SINCE] = now


@jit
def touch_down(lists, desk):
    """Up to the end of the oldest batch in flight; returns its slot."""
    pace, slot = desk.pace, (desk.at[ITERATIONS] - desk.at[FLIGHTS]) % 2
    pace[NOW] = max(pace[NOW], lists.end[slot])
    took = pace[NOW] - max(desk.planned[slot], pace[LAST_END])
    pace[BATCH_TIME] = longer_mean(pace[BATCH_TIME], took)
    pace[LAST_END] = pace[NOW]
    return slot
