"""What every engine shares: memory semantics, the state of the requests, one decision with its evictions.

A decision asks the policy for a plan, and while somebody must go for lack of KV memory, evicts and asks again: the
newest resident request while the planned decodes do not fit, unless the policy has an order of its own. The simulator
and the Vidur engine both call :func:`decide`, so no policy rule and no eviction rule is written twice.
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
from fluidwait.policies import contract, tools
from fluidwait.policies.contract import Context, Limits, Plan, View, blocks_for, jit, jit_cached
from fluidwait.policies.tools import newest_if_short
from fluidwait.workload import most_output, predicted_output


class EngineError(FluidwaitError):
    """A run that cannot go on: requests stranded, a plan that breaks the contract, an invariant violated."""


plan: Any
victim: Any
"""Of the policy; :func:`specialise` puts them in the place of these names."""

REFUSED = -1
"""Requests admitted by a plan that admits what does not wait, or evicts who is not resident."""


class Semantics(NamedTuple):
    """How memory is counted and what a step yields; presets: :func:`serving`, :func:`decode`, :func:`paper`."""

    blocks: int  # KV blocks in all
    block_size: int  # tokens
    watermark: int  # blocks that admissions leave free
    prefill_emits: bool  # the iteration that ends the prefill also yields the first output token
    recompute: bool  # an evicted request keeps its generated tokens and prefills them again; else it starts over
    reserved_blocks: int = 0  # blocks reserved at admission; 0: those of the prompt, growing with the decodes
    remote_prefill: bool = False  # the KV of the prompt, all but its last token, comes with the request
    rejoins_last: bool = False  # an evicted request goes to the end of the queue, and not to its head


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


def context_of(
    law, rate: float, time_model, linear: tuple[float, float], semantics, prediction_error: float | None = None
) -> Context:
    """What a policy may derive its knobs from, under these rules.

    Args:
        linear: the paper's (d0 s, d1 s/token); nan where they are unknown, which the policies that ask refuse.
        semantics: :class:`Semantics`, or the rules of :mod:`fluidwait.engines.v1`.
        prediction_error: of the workload; None when it predicts nothing.
    """
    capacity, most = semantics.blocks * semantics.block_size, Limits()
    if not isinstance(semantics, Semantics):
        most = Limits(requests=semantics.requests)
    how = (semantics.prefill_emits, semantics.remote_prefill, most, prediction_error)
    return Context(law, rate, time_model, linear, capacity, *how)


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
    max_output: np.ndarray  # int64, tokens that the client allows
    predicted: np.ndarray  # int64, tokens of output, 0 without a prediction
    service: np.ndarray  # float64, s inside batches
    first_token: np.ndarray  # float64, s, nan until it is there
    completion: np.ndarray  # float64, s, nan until it is there
    evictions: np.ndarray  # int64
    recomputed: np.ndarray  # int64, tokens whose KV cache an eviction dropped, all of which are computed again
    waiting: np.ndarray  # uint64, a window [head, tail) of request indices in the order of the queue
    resident: np.ndarray  # uint64, the first n are request indices in admission order
    tokens: np.ndarray  # int64, the plan: tokens per resident
    admit: np.ndarray  # int64, the plan: positions in the waiting window
    chunk: np.ndarray  # int64, the plan: first chunks


def new_state(requests, semantics: Semantics) -> State:
    """A state with every request still to arrive.

    Args:
        requests: :class:`fluidwait.workload.Requests`.
    """
    n = len(requests.arrival)
    most_resident = min(n, semantics.blocks) + 1
    integers = [np.zeros(n, dtype=np.int64) for _ in range(5)]
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
        most_output(requests),
        predicted_output(requests),
        np.zeros(n),
        np.full(n, np.nan),
        np.full(n, np.nan),
        integers[3],
        integers[4],
        np.zeros(n, dtype=np.uint64),  # unsigned: no test for negative indices at every access
        np.zeros(most_resident, dtype=np.uint64),
        np.zeros(most_resident, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
    )


def decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents):
    """One decision by the policy whose functions the names ``plan`` and ``victim`` are bound to: :func:`specialise`.

    Returns (admitted, wake, free, head, residents) after the evictions that it took, if any.

    ``admitted`` is :data:`REFUSED` when the plan admits what does not wait, or evicts who is not resident.

    Evicted requests are back in the waiting window, at its head or at its end. Nothing else changes: the plan stands in
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
            state.max_output,
            state.predicted,
            free,
            semantics.watermark,
            semantics.block_size,
        )
        state.tokens[:residents] = 0
        admitted, wake = plan(view, knobs, memory, out)  # noqa: F821
        if not are_waiting(out, admitted, tail - head):
            return REFUSED, wake, free, head, residents
        if semantics.reserved_blocks > 0:
            return admitted, wake, free, head, residents
        k = victim(view, knobs, out)  # noqa: F821
        if k < 0:
            return admitted, wake, free, head, residents
        if k >= residents:
            return REFUSED, wake, free, head, residents
        r = state.resident[k]
        residents -= 1
        for j in range(k, residents):
            state.resident[j] = state.resident[j + 1]
        evicted += 1
        free += evict(state, semantics, r)
        head -= 1
        rejoin(state, semantics, r, head, tail)


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
def rejoin(state, semantics, r, head, tail):
    """Put an evicted request into the waiting window [head, tail), of which the first place has come free."""
    place = head
    if semantics.rejoins_last:
        for i in range(head, tail - 1):
            state.waiting[i] = state.waiting[i + 1]
        place = tail - 1
    state.waiting[place] = r


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
    state.recomputed[r] += state.cached[r]
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
    decide_with_policy = jit(bind(decision, f"decide_{tag}", plan=policy.plan, victim=victim_of(policy)))
    return jit_cached(bind(template, f"{template.__name__}_{tag}", decide=decide_with_policy))


def victim_of(policy: ModuleType) -> Any:
    """The compiled function that says who must go."""
    return getattr(policy, "victim", newest_if_short)


def kept(function: Any, sources: list[ModuleType]) -> Any:
    """Compile ``function``, which is made of these files, for all policies; cached as by :func:`specialise`."""
    parts = (contract, tools, *sources)
    digest = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in parts))
    return jit_cached(bind(function, f"{function.__name__}_{digest.hexdigest()[:16]}"))


def policy_sources(policy: ModuleType) -> list[str]:
    """Files whose code is compiled into a policy: what all share, its own, those of policies that it borrows from."""
    borrowed = {value.__module__ for value in vars(policy).values() if isinstance(value, CPUDispatcher)}
    own = [str(module.__file__) for module in (contract, tools, policy)]
    return [*own, *sorted(str(sys.modules[name].__file__) for name in borrowed)]
