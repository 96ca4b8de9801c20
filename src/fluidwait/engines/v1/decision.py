"""One decision of a policy about a vLLM engine's requests: the plug-in and the simulator run this very code.

It is compiled once per policy and version of the code, and kept on disk. All that a step must know before vLLM's own
is one call into compiled code: between two steps the engine has pushed everything of ours out of the processor's
caches, so that every line of Python costs several times its usual price.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fluidwait.engines.core import bind, policy_sources
from fluidwait.engines.v1 import columns
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
    SENT,
    SERVICE,
    STAGE,
)
from fluidwait.policies.contract import (
    NO_LIMIT,
    Plan,
    View,
    blocks_for,
    growth,
    is_decoding,
    jit,
    jit_cached,
    to_prefill,
)

plan: Any
"""Of the policy; :func:`compiled` puts it in the place of this name."""

WATERMARK_SHARE = 0.01
"""Of the KV blocks: what a policy's admissions leave free, as under the other semantics."""

NAP_SHARE = 0.2  # of the time of a batch: how long to sleep while everything is held and nothing runs
NAP_LEAST, NAP_MOST = 0.001, 0.005  # s; an arrival or an abort is noticed as much later

# rows of the work space, int64: of what the policy plans, and lists of slots
TOKENS, ADMIT, CHUNK_OF, ORDER, PREFILLED = 0, 1, 2, 3, 4
WORK_ROWS = 5


# a step in numbers, int64: of the engine now, set before every decision
DRAINING, RUNNING, FREE, ROOM = 0, 1, 2, 3  # nothing will arrive; requests running; KV blocks; requests that may enter
REFUSED = 4  # 1 when the last plan held all residents for admissions for which vLLM had no room
STEP_ROWS = 5

# the rules in numbers, int64: of the engine and of the knobs in force
EXTRA = 0  # KV blocks that admissions may count on besides the free ones, unless that went wrong
WATERMARK = 1  # KV blocks that admissions leave free
BLOCK_SIZE = 2  # tokens
BATCH_TOKENS = 3  # vLLM's limit
CHUNK = 4  # vLLM's limit on the prefill tokens of a request and batch
STOCK_CHUNK = 5  # the same without a policy
WHOLE_PROMPTS = 6  # 1 when the policy does not split prompts
BY_PRIORITY = 7  # 1 when the engine ranks requests by priority, and not as they come
RULE_ROWS = 8


class Decision(NamedTuple):
    """What :func:`decide` found and wrote."""

    known: int  # running requests that the slots know, now the first so many; when some are missing, nothing follows
    residents: int  # running requests that still have tokens to compute
    served: int  # residents that get tokens
    victims: int  # residents, the last in order, that must go for lack of memory
    admitted: int  # waiting requests to admit: positions in work[ADMIT]
    tokens: int  # planned in all; NO_LIMIT when nobody gets less than vLLM would give
    prefilled: int  # residents in prefill that get tokens: slots in work[PREFILLED]
    ordered: int  # requests that vLLM is to see as running: slots in work[ORDER]; -1: all of them as they are
    wake: float  # s, when the policy wants to be asked again


@jit
def came_at(now, waited, last_step):
    """When a request came (s) that is taken in at ``now`` (s) and has waited for ``waited`` (s) by its own clock.

    That may be the clock of another host, so it counts only as far as it can be true: what had come when the last step
    was planned was taken in then.
    """
    return min(max(now - waited, last_step), now)


@jit
def longer_mean(batch_time, took):
    """The mean time of the last ten batches or so (s), after one that ``took`` (s)."""
    return batch_time + 0.1 * (took - batch_time)


@jit
def nap(batch_time, until_wake):
    """How long to sleep (s) while everything is held and nothing runs."""
    return max(0.0, min(min(max(NAP_SHARE * batch_time, NAP_LEAST), NAP_MOST), until_wake))


@jit
def _rank(counts, times, slots):
    """Sort the slots as the engine ranks their requests: by priority, then by time, then as they are.

    They are in order but for those who came to run since the last step.
    """
    for k in range(1, len(slots)):
        r, j = slots[k], k
        while j > 0:
            before = slots[j - 1]
            if counts[PRIORITY, before] < counts[PRIORITY, r]:
                break
            if counts[PRIORITY, before] == counts[PRIORITY, r] and times[SENT, before] <= times[SENT, r]:
                break
            slots[j] = before
            j -= 1
        slots[j] = r


@jit
def _look(counts, times, now, block_size, slots, residents, last_stage):
    """List in ``residents`` those that have tokens to compute; the others only wait for their last token to land.

    Returns how many, how many of them are in prefill, and the KV blocks that those prefills will still take.
    """
    n, prefills, promised = 0, 0, 0
    for k in range(len(slots)):
        r = slots[k]
        if counts[GENERATED, r] >= counts[LIMIT, r]:
            continue
        residents[n] = r
        n += 1
        times[SERVICE, r] = now - times[ARRIVAL, r] - times[HELD_FOR, r]
        counts[STAGE, r] = min(counts[GENERATED, r], last_stage[counts[KIND, r]])
        if counts[CACHED, r] < counts[GOAL, r]:
            prefills += 1
            promised += counts[HELD, r] - blocks_for(counts[CACHED, r], block_size)
    return n, prefills, promised


@jit
def _finish_prefills(counts, residents, tokens):
    """Where vLLM's limit cut a prompt, the rest follows at once: the policy plans a decode for it, or none."""
    for k in range(len(residents)):
        missing = counts[GOAL, residents[k]] - counts[CACHED, residents[k]]
        if missing > 0 and tokens[k] <= 1:
            tokens[k] = missing


@jit
def _blocks_needed(view, tokens):
    blocks = 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        cached = view.cached[r]
        if tokens[k] == 1 and is_decoding(view, r):  # without a division, which takes longer than the rest
            blocks += growth(view, r)
        else:
            blocks += blocks_for(cached + tokens[k], view.block_size) - blocks_for(cached, view.block_size)
    return blocks


@jit
def _put_in_order(counts, slots, residents, work, victims):
    """What vLLM is to see as running: planned decodes, planned prefills and, when memory is short, the rest.

    It gives tokens in this order and, but for priorities, preempts from its end, so the victims come last. Otherwise
    requests that only wait for their last token stay out: it would pass over them.
    """
    n = 0
    for prefills in (False, True):
        for k in range(len(residents)):
            r = residents[k]
            if work[TOKENS, k] > 0 and (counts[CACHED, r] < counts[GOAL, r]) == prefills:
                work[ORDER, n] = r
                n += 1
    if victims > 0:
        k = 0
        for r in slots:
            served = False
            if k < len(residents) and residents[k] == r:
                served = work[TOKENS, k] > 0
                k += 1
            if not served:
                work[ORDER, n] = r
                n += 1
    return n


@jit
def _known(counts, slots):
    """Move the slots of requests that still run to the front; returns how many."""
    known = 0
    for k in range(len(slots)):
        if counts[ALIVE, slots[k]]:
            slots[known] = slots[k]
            known += 1
    return known


def decide(
    now,  # s
    held_for,  # s, since the last step
    step,  # int64[STEP_ROWS]
    slots,  # uint64, of the requests that ran at the last step, in order
    held,  # uint64, slots of those held since the last step
    waiting,  # uint64, slots
    times,
    counts,
    residents,  # uint64, work space
    work,  # int64[WORK_ROWS, >= residents, >= waiting], work space
    last_stage,  # int64 per type
    rules,  # int64[RULE_ROWS]
    knobs,
    memory,
):
    """Ask the policy whose ``plan`` this global name is bound to; see the policy contract.

    While the planned tokens do not fit the free blocks, the last residents in the engine's order are left out and the
    policy is asked again; they are the first that vLLM preempts.
    """
    known, free, block_size = _known(counts, slots), step[FREE], rules[BLOCK_SIZE]
    if known != step[RUNNING]:
        return Decision(known, 0, 0, 0, 0, 0, 0, 0, now)
    for k in range(len(held)):
        if counts[ALIVE, held[k]]:
            times[HELD_FOR, held[k]] += held_for
    if rules[BY_PRIORITY]:
        _rank(counts, times, slots[:known])
    all_there, prefills, promised = _look(counts, times, now, block_size, slots[:known], residents, last_stage)
    extra = 0 if step[REFUSED] else rules[EXTRA]
    left, out = all_there, Plan(work[TOKENS], work[ADMIT], work[CHUNK_OF])
    while True:
        view = View(
            now,
            step[DRAINING] == 1,
            all_there - left,
            waiting,
            residents[:left],
            times[ARRIVAL],
            times[SERVICE],
            counts[KIND],
            counts[GOAL],
            counts[CACHED],
            counts[STAGE],
            counts[HELD],
            counts[MAX_OUTPUT],
            counts[PREDICTED],
            free + extra - promised,
            rules[WATERMARK] if all_there > 0 else 0,
            block_size,
        )
        work[TOKENS, :all_there] = 0
        admitted, wake = plan(view, knobs, memory, out)  # noqa: F821
        if prefills > 0 and rules[WHOLE_PROMPTS]:
            _finish_prefills(counts, residents[:left], work[TOKENS])
        if left <= 1 or _blocks_needed(view, work[TOKENS]) <= free:
            return _decision(view, counts, slots[:known], residents[:all_there], work, step, rules, admitted, wake)
        left -= 1
        free += counts[HELD, residents[left]]


@jit
def _decision(view, counts, slots, residents, work, step, rules, admitted, wake):
    """What vLLM is to do for a plan: who takes part, in which order, and how many tokens it may give."""
    victims, tokens = len(residents) - len(view.resident), work[TOKENS]
    served, total, prefilled = 0, 0, 0
    as_it_is, full = True, True  # vLLM by itself would do so, given its limit on prefills; without that limit too
    for k in range(len(view.resident)):
        if tokens[k] == 0:
            as_it_is = False
            continue
        served += 1
        total += tokens[k]
        r = residents[k]
        missing = counts[GOAL, r] - counts[CACHED, r]
        if missing > 0:
            work[PREFILLED, prefilled] = r
            prefilled += 1
            as_it_is = as_it_is and tokens[k] >= min(missing, rules[CHUNK])
            full = full and tokens[k] >= min(missing, rules[STOCK_CHUNK])
    full = full and as_it_is
    ordered = -1
    if not as_it_is or (total > rules[BATCH_TOKENS] and not full):
        ordered = _put_in_order(counts, slots, residents, work, victims)
    admitted = min(admitted, max(step[ROOM], 0))
    for i in range(admitted):
        chunk = work[CHUNK_OF, i]
        total += chunk
        full = full and chunk >= min(to_prefill(view, view.waiting[work[ADMIT, i]]), rules[STOCK_CHUNK])
    total = NO_LIMIT if full else total
    return Decision(len(slots), len(residents), served, victims, admitted, total, prefilled, ordered, wake)


@cache
def compiled(policy: ModuleType):
    """:func:`decide` for a policy, as machine code."""
    digest = hashlib.sha256()
    for source in (*policy_sources(policy), str(columns.__file__), __file__):
        digest.update(Path(source).read_bytes())
    tag = f"{policy.__name__.rpartition('.')[2]}_{digest.hexdigest()[:16]}"
    return jit_cached(bind(decide, f"decide_{tag}", plan=policy.plan))
