"""One decision of a policy about the engine's requests, compiled once per policy and version of the code, kept on disk.

All that a step must know before vLLM's own is one call into compiled code: between two steps the engine has pushed
everything of ours out of the processor's caches, so that every line of Python costs several times its usual price.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from llvmlite.binding import ffi

from fluidwait.engines.core import bind
from fluidwait.engines.vllm import requests
from fluidwait.engines.vllm.requests import (
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
    SENT,
    SERVICE,
    STAGE,
)
from fluidwait.policies import contract, nested_wait
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

# rows of the work space, int64: of what the policy plans, and lists of slots
TOKENS, ADMIT, CHUNK, ORDER, PREFILLED = 0, 1, 2, 3, 4
WORK_ROWS = 5


def _no_dunder_functions() -> None:
    """Let vLLM look at Numba's LLVM library without harm.

    vLLM's CPU worker asks every object of every loaded module for its ``__dict__``. The library object of llvmlite
    takes any name for a function of the library, so that scan ends in an error when Numba was imported first, as it is
    here when the engine runs in this process.
    """
    of_library = ffi._lib_wrapper.__getattr__

    def guarded(library, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return of_library(library, name)

    ffi._lib_wrapper.__getattr__ = guarded


_no_dunder_functions()


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
        counts[STAGE, r] = counts[GENERATED, r]
        if len(last_stage) > 0:
            counts[STAGE, r] = min(counts[GENERATED, r], last_stage[counts[KIND, r]])
        if counts[CACHED, r] < counts[GOAL, r]:
            prefills += 1
            promised += counts[HELD, r] - blocks_for(counts[CACHED, r], block_size)
    return n, prefills, promised


@jit
def _finish_prefills(counts, residents, tokens):
    for k in range(len(residents)):
        missing = counts[GOAL, residents[k]] - counts[CACHED, residents[k]]
        if missing > 0:
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


def decide(
    now,  # s
    draining,  # True when nothing will arrive
    running,  # number of running requests
    slots,  # uint64, theirs at the last step, in order
    held,  # uint64, slots of those held since the last step
    held_for,  # s
    waiting,  # uint64, slots
    times,
    counts,
    residents,  # uint64, work space
    work,  # int64[WORK_ROWS, >= residents, >= waiting], work space
    last_stage,  # int64 per type, or empty
    free,  # KV blocks
    extra,  # KV blocks that admissions may count on besides
    watermark,  # KV blocks
    block_size,  # tokens
    room,  # requests that may enter
    batch_tokens,  # vLLM's limit
    chunk,  # vLLM's limit on the prefill tokens of a request and batch
    stock_chunk,  # the same without a plan
    whole_prompts,  # the policy knows no chunks
    by_priority,  # the engine ranks requests by priority, and not as they come
    knobs,
    memory,
):
    """Ask the policy whose ``plan`` this global name is bound to; see the policy contract.

    While the planned tokens do not fit the free blocks, the last residents in the engine's order are left out and the
    policy is asked again; they are the first that vLLM preempts.
    """
    known = 0
    for k in range(len(slots)):
        if counts[ALIVE, slots[k]]:
            slots[known] = slots[k]
            known += 1
    if known != running:
        return Decision(known, 0, 0, 0, 0, 0, 0, 0, now)
    for k in range(len(held)):
        if counts[ALIVE, held[k]]:
            times[HELD_FOR, held[k]] += held_for
    if by_priority:
        _rank(counts, times, slots[:known])
    all_there, prefills, promised = _look(counts, times, now, block_size, slots[:known], residents, last_stage)
    if all_there == 0:
        watermark = 0
    tokens, out = work[TOKENS], Plan(work[TOKENS], work[ADMIT], work[CHUNK])
    left = all_there
    while True:
        view = View(
            now,
            draining,
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
            free + extra - promised,
            watermark,
            block_size,
        )
        tokens[:all_there] = 0
        admitted, wake = plan(view, knobs, memory, out)  # noqa: F821
        if prefills > 0 and whole_prompts:  # where vLLM's limit cut a prompt, the rest follows at once
            _finish_prefills(counts, residents[:left], tokens)
        if left <= 1 or _blocks_needed(view, tokens) <= free:
            break
        left -= 1
        free += counts[HELD, residents[left]]
    victims = all_there - left
    served, total, prefilled = 0, 0, 0
    as_it_is, full = True, True  # vLLM by itself would do so, given its limit on prefills; without that limit too
    for k in range(left):
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
            as_it_is = as_it_is and tokens[k] >= min(missing, chunk)
            full = full and tokens[k] >= min(missing, stock_chunk)
    full = full and as_it_is
    ordered = -1
    if not as_it_is or (total > batch_tokens and not full):
        ordered = _put_in_order(counts, slots[:known], residents[:all_there], work, victims)
    admitted = min(admitted, max(room, 0))
    for i in range(admitted):
        total += out.chunk[i]
        full = full and out.chunk[i] >= min(to_prefill(view, waiting[out.admit[i]]), stock_chunk)
    return Decision(known, all_there, served, victims, admitted, NO_LIMIT if full else total, prefilled, ordered, wake)


@cache
def compiled(policy: ModuleType):
    """:func:`decide` for a policy, as machine code."""
    digest = hashlib.sha256()
    for source in (contract.__file__, nested_wait.__file__, policy.__file__, requests.__file__, __file__):
        digest.update(Path(str(source)).read_bytes())
    tag = f"{policy.__name__.rpartition('.')[2]}_{digest.hexdigest()[:16]}"
    return jit_cached(bind(decide, f"decide_{tag}", plan=policy.plan))
