"""What every engine shares: memory semantics, the state of the requests, one decision with its evictions.

A decision asks the policy for a plan, checks that the planned decodes fit the KV memory, and while they do not, evicts
the newest resident request and asks again. The simulator and the Vidur engine both call :func:`decide`, so no policy
rule and no eviction rule is written twice.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numba.core.registry import CPUDispatcher

from fluidwait.base.errors import FluidwaitError
from fluidwait.policies import contract
from fluidwait.policies.contract import Context, Limits, Plan, View, blocks_for, growth, jit, jit_cached


class EngineError(FluidwaitError):
    """A run that cannot go on: requests stranded, a plan that breaks the contract, an invariant violated."""


plan: Any
"""Of the policy; :func:`specialise` puts it in the place of this name."""

REFUSED = -1
"""Requests admitted by a plan that admits what does not wait."""


class Semantics(NamedTuple):
    """How memory is counted and what a step yields; presets: :func:`serving`, :func:`decode`, :func:`paper`."""

    blocks: int  # KV blocks in all
    block_size: int  # tokens
    watermark: int  # blocks that admissions leave free
    prefill_emits: bool  # the iteration that ends the prefill also yields the first output token
    recompute: bool  # an evicted request keeps its generated tokens and prefills them again; else it starts over
    reserved_blocks: int = 0  # blocks reserved at admission; 0: those of the prompt, growing with the decodes
    remote_prefill: bool = False  # the KV of the prompt, all but its last token, comes with the request


def serving(blocks: int, block_size: int = 16, watermark: float = 0.01) -> Semantics:
    """What Vidur and vLLM do: paged blocks, a watermark, first token at the end of the prefill, recompute."""
    return Semantics(blocks, block_size, int(watermark * blocks), True, True)


def paper(capacity: int, watermark: float = 0.0) -> Semantics:
    """The paper's model: memory in single tokens, l' decode iterations after the prefill, evicted progress is lost."""
    return Semantics(capacity, 1, int(watermark * capacity), False, False)


def decode(blocks: int, block_size: int = 16, watermark: float = 0.01) -> Semantics:
    """:func:`serving` on a machine that only decodes: every prompt was prefilled on another one.

    Its KV cache costs memory from the admission on, but no computation: the first iteration computes one token, like a
    decode. After an eviction the other machine has long dropped it, so that the prompt is prefilled here.
    """
    return serving(blocks, block_size, watermark)._replace(remote_prefill=True)


def context_of(law, rate: float, time_model, linear: tuple[float, float], semantics) -> Context:
    """What a policy may derive its knobs from, under these rules.

    Args:
        linear: the paper's (d0 s, d1 s/token); nan where they are unknown, which the policies that ask refuse.
        semantics: :class:`Semantics`, or the rules of :mod:`fluidwait.engines.v1`.
    """
    capacity, most = semantics.blocks * semantics.block_size, Limits()
    if not isinstance(semantics, Semantics):
        most = Limits(requests=semantics.requests)
    return Context(law, rate, time_model, linear, capacity, semantics.prefill_emits, semantics.remote_prefill, most)


class State(NamedTuple):
    """Everything that is known about the requests of a run; arrays by request index unless said otherwise."""

    arrival: np.ndarray  # float64, s
    kind: np.ndarray  # int64
    prompt: np.ndarray  # int64, tokens
    output: np.ndarray  # int64, tokens
    goal: np.ndarray  # int64, tokens to prefill
    cached: np.ndarray  # int64, tokens; before the admission those that come with the request
    generated: np.ndarray  # int64, tokens
    held: np.ndarray  # int64, blocks
    service: np.ndarray  # float64, s inside batches
    first_token: np.ndarray  # float64, s, nan until it is there
    completion: np.ndarray  # float64, s, nan until it is there
    evictions: np.ndarray  # int64
    waiting: np.ndarray  # uint64, a window [head, tail) of request indices, arrival order
    resident: np.ndarray  # uint64, the first n are request indices in admission order
    tokens: np.ndarray  # int64, the plan: tokens per resident
    admit: np.ndarray  # int64, the plan: positions in the waiting window
    chunk: np.ndarray  # int64, the plan: first chunks


def new_state(requests, semantics: Semantics) -> State:
    """A state with every request still to arrive. ``requests`` has arrival, kind, prompt, output arrays of length N."""
    n = len(requests.arrival)
    most_resident = min(n, semantics.blocks) + 1
    integers = [np.zeros(n, dtype=np.int64) for _ in range(4)]
    if semantics.remote_prefill:
        integers[0] += np.asarray(requests.prompt, dtype=np.int64) - 1
    return State(
        np.array(requests.arrival, dtype=np.float64),  # copies: a read-only array would be compiled for once more
        np.array(requests.kind, dtype=np.int64),
        np.array(requests.prompt, dtype=np.int64),
        np.array(requests.output, dtype=np.int64),
        np.array(requests.prompt, dtype=np.int64),
        integers[0],
        integers[1],
        integers[2],
        np.zeros(n),
        np.full(n, np.nan),
        np.full(n, np.nan),
        integers[3],
        np.zeros(n, dtype=np.uint64),  # unsigned: no test for negative indices at every access
        np.zeros(most_resident, dtype=np.uint64),
        np.zeros(most_resident, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
    )


def decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents):
    """One decision by the policy whose function the global name ``plan`` is bound to (see :func:`specialise`).

    Returns (admitted, wake, free, head, residents) after the evictions that it took, if any.

    ``admitted`` is :data:`REFUSED` when the plan admits what does not wait.

    Evicted requests are back in the waiting window, at its head. Nothing else changes: the plan stands in
    ``state.tokens``, ``state.admit`` and ``state.chunk`` and is carried out by the engine.
    """
    evicted = 0
    out = Plan(state.tokens, state.admit, state.chunk)
    while True:
        view = View(
            now,
            draining,
            evicted,
            state.waiting[head:tail],
            state.resident[:residents],
            state.arrival,
            state.service,
            state.kind,
            state.goal,
            state.cached,
            state.generated,
            state.held,
            free,
            semantics.watermark,
            semantics.block_size,
        )
        state.tokens[:residents] = 0
        admitted, wake = plan(view, knobs, memory, out)  # noqa: F821
        if not are_waiting(out, admitted, tail - head):
            return REFUSED, wake, free, head, residents
        if semantics.reserved_blocks > 0 or free >= residents or not decodes_fall_short(view, out):
            return admitted, wake, free, head, residents
        residents -= 1
        head -= 1
        evicted += 1
        free += evict(state, semantics, state.resident[residents])
        state.waiting[head] = state.resident[residents]


@jit
def most_fruitless(state):
    """Decisions that evict or idle, without an arrival or a completion in between, after which a run is given up.

    A policy that serves its oldest resident completes it within as many iterations as it has tokens, counted twice
    because of a recompute. A gate may hold the oldest one while the newest is evicted and comes back, over and over:
    for as long as its patience lasts, which is for ever where iterations take no time.
    """
    return 100_000 + 2 * (np.sum(state.prompt) + np.sum(state.output))


@jit
def are_waiting(out, admitted, waiting):
    """True when the plan admits some of ``waiting`` requests, each once: positions ascend. Nothing else is read."""
    last = -1
    for i in range(min(admitted, waiting)):
        if not last < out.admit[i] < waiting:
            return False
        last = out.admit[i]
    return 0 <= admitted <= waiting


@jit
def decodes_fall_short(view, out):
    """True when some planned decode finds no free block, in admission order.

    As in Vidur and vLLM's block manager each decode asks for a spare block even when its last one has room.
    """
    free = view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        if out.tokens[k] > 0 and view.cached[r] >= view.goal[r]:
            if free < 1:
                return True
            free -= growth(view, r)
    return False


@jit
def evict(state, semantics, r):
    """Drop the KV cache of request ``r``; returns the blocks that come free."""
    freed = state.held[r]
    state.held[r] = 0
    if not semantics.recompute:
        state.generated[r] = 0
        state.first_token[r] = np.nan
    elif state.cached[r] >= state.goal[r]:
        state.goal[r] = state.prompt[r] + state.generated[r]
    state.cached[r] = 0
    state.evictions[r] += 1
    return freed


@jit
def admission_blocks(semantics, tokens):
    """KV blocks that a request with ``tokens`` tokens to prefill gets when it is admitted."""
    if semantics.reserved_blocks > 0:
        return semantics.reserved_blocks
    return blocks_for(tokens, semantics.block_size)


@jit
def close_gaps(waiting, admit, admitted, head):
    """Move the waiting requests that admissions skipped to the end of the space that the admitted ones leave."""
    gap = admitted - 1
    if admitted <= 0 or admit[gap] == gap:
        return
    write = admit[gap]
    for read in range(admit[gap], -1, -1):
        if gap >= 0 and admit[gap] == read:
            gap -= 1
        else:
            waiting[head + write] = waiting[head + read]
            write -= 1


def bind(template: Any, name: str, **names: Any) -> FunctionType:
    """A copy of ``template`` called ``name`` whose global ``names`` are bound to the given values."""
    function = FunctionType(template.__code__, {**template.__globals__, **names}, name)
    function.__qualname__ = name
    function.__module__ = template.__module__
    return function


def specialise(template: Any, policy: ModuleType, sources: list[ModuleType], decision: Any = decide) -> Any:
    """Compile ``template``, which calls ``decision`` by the global name ``decide``, for one policy, cached on disk.

    Numba caches by file, name and argument types and looks at the age of the template's own file only. So the compiled
    function carries the policy's name and a fingerprint of every source that goes into it in its name: one compilation
    per policy and version of the code, paid once per machine. (A function handed over as an argument would do for
    one process, but Numba does not cache such code.)
    """
    digest = hashlib.sha256()
    for path in dict.fromkeys([*(str(module.__file__) for module in sources), *policy_sources(policy)]):
        digest.update(Path(path).read_bytes())
    tag = f"{policy.__name__.rpartition('.')[2]}_{digest.hexdigest()[:16]}"
    decide_with_policy = jit(bind(decision, f"decide_{tag}", plan=policy.plan))
    return jit_cached(bind(template, f"{template.__name__}_{tag}", decide=decide_with_policy))


def kept(function: Any, sources: list[ModuleType]) -> Any:
    """Compile ``function``, which is made of these files, for all policies; cached as by :func:`specialise`."""
    digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in (contract, *sources)))
    return jit_cached(bind(function, f"{function.__name__}_{digest.hexdigest()[:16]}"))


def policy_sources(policy: ModuleType) -> list[str]:
    """Files whose code is compiled into a policy: the contract's, its own, those of policies that it borrows from."""
    borrowed = {value.__module__ for value in vars(policy).values() if isinstance(value, CPUDispatcher)}
    own = [str(module.__file__) for module in (contract, policy)]
    return [*own, *sorted(str(sys.modules[name].__file__) for name in borrowed)]
