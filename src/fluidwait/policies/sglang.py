"""SGLang's scheduler: prefills first, and admission by an estimate of what the running requests will still generate.

Each request is taken to generate what its client allows beyond what it has, at most ``clip`` tokens. Of the running
ones only a share r of that counts, of a newcomer all. r starts at ``INITIAL`` times ``conservativeness``, falls to
``LEAST`` of that in ``DECAY`` decode steps without a retraction, and starts anew when the server is idle. A batch is
either prefills, in chunks of ``chunk_tokens`` together, or one token for every running request. When the next decodes
do not fit, those with the fewest outputs are retracted (of equals the longest prompt) until they do, but never the last
one; they go to the end of the queue, and r becomes (tokens generated + ``AHEAD`` per request) / tokens allowed.

Checked against the source of SGLang 0.5 (``schedule_policy.py``, ``schedule_batch.py``,
``new_token_ratio_tracker.py``), without prefix cache, speculation and mixed batches. Earlier releases retract until
``AHEAD`` tokens per request are free. A prediction of the output takes the place of what the client allows. Here blocks
are those of the engine, its watermark stays free, and a request that the estimate never lets in enters when nobody else
is there.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from fluidwait.policies.contract import (
    Limits,
    Needs,
    PolicySettings,
    blocks_for,
    fits,
    is_decoding,
    jit,
    lowered,
    to_prefill,
)
from fluidwait.policies.tools import assumed_output, decode_all, go_on_with_prefills, is_overdrawn

INITIAL, LEAST, DECAY, AHEAD = 0.7, 0.14, 600, 20
UNIT = 1e12  # r is kept as a whole number of 1 / UNIT


class Settings(PolicySettings):
    conservativeness: float = Field(1.0, gt=0, description="factor of the first r (schedule_conservativeness)")
    chunk_tokens: int = Field(8192, gt=0, description="tokens of a prefill batch (chunked_prefill_size)")
    clip: int = Field(4096, gt=0, description="output tokens of a request that count at most")
    max_requests: int = Field(2048, gt=0, description="requests in service at most (max_running_requests)")


class Knobs(NamedTuple):
    initial: float  # r at first
    least: float
    decay: float  # per decode step
    chunk_tokens: int
    clip: int
    max_requests: int


def prepare(settings: Settings, context) -> Knobs:
    """The numbers of the engine; nothing of the context is needed."""
    initial = min(INITIAL * settings.conservativeness, 1.0)
    decay = initial * (1 - LEAST) / DECAY
    return Knobs(initial, initial * LEAST, decay, settings.chunk_tokens, settings.clip, settings.max_requests)


def needs(settings: Settings) -> Needs:
    """Nothing."""
    return Needs(any_output=1, times=False, rate=False)


def limits(knobs: Knobs) -> Limits:
    """Requests in service, and prefill tokens of a request and batch; decodes have no limit of their own."""
    return Limits(requests=knobs.max_requests, chunk=knobs.chunk_tokens)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, chunk_tokens=min(most.tokens, most.chunk))


def rejoins_last(knobs: Knobs) -> bool:
    """A retracted request is queued anew."""
    return True


@jit
def victim(view, knobs, out):
    if not is_overdrawn(view, out):
        return -1
    chosen, decodes = -1, 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        if is_decoding(view, r):
            decodes += 1
            if chosen < 0 or _goes_before(view, r, view.resident[chosen]):
                chosen = k
    return chosen if decodes > 1 else len(view.resident) - 1  # the last decode stays, unless it is alone


@jit
def _goes_before(view, r, other):
    if view.generated[r] != view.generated[other]:
        return view.generated[r] < view.generated[other]
    return view.cached[r] > view.cached[other]  # of equal outputs, so by prompts


@jit
def plan(view, knobs, memory, out):
    ratio = memory[0] / UNIT if memory[0] > 0 and len(view.resident) > 0 else knobs.initial
    if view.evicted == 0:
        budget = go_on_with_prefills(view, out, knobs.chunk_tokens)
        admitted = _admit(view, knobs, out, budget, ratio)
        if admitted > 0 or budget < knobs.chunk_tokens:
            memory[0] = int(ratio * UNIT)
            return admitted, float("inf")
        ratio = max(ratio - knobs.decay, knobs.least)
    else:
        ratio = _after_retraction(view)
    decodes, _ = decode_all(view, out)
    if decodes > 0:
        memory[0] = int(ratio * UNIT)
    return 0, float("inf")


@jit
def _after_retraction(view):
    generated, allowed = 0, 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        generated += view.generated[r] + AHEAD
        allowed += assumed_output(view, r)
    return min(generated / (allowed + 1), 1.0)


@jit
def _to_come(view, knobs, r):
    """Output tokens that are expected of request ``r`` at most."""
    return min(assumed_output(view, r) - view.generated[r], knobs.clip)


@jit
def _admit(view, knobs, out, budget, ratio):
    """Admit while the estimate fits the free memory; the last one may be cut to what is left of the budget."""
    free, tokens = view.free, float(view.free * view.block_size)
    for k in range(len(view.resident)):
        r = view.resident[k]
        if is_decoding(view, r):
            tokens -= _to_come(view, knobs, r) * ratio
        elif view.cached[r] + out.tokens[k] >= view.goal[r]:
            tokens -= _to_come(view, knobs, r)
    admitted, room = 0, knobs.max_requests - len(view.resident)
    while admitted < min(len(view.waiting), room) and budget > 0:
        r = view.waiting[admitted]
        to_come = _to_come(view, knobs, r)
        alone = admitted == 0 and len(view.resident) == 0
        if not fits(view, r, free) or not (alone or view.goal[r] + to_come + view.block_size < tokens):
            break
        chunk = min(to_prefill(view, r), budget)
        out.admit[admitted], out.chunk[admitted] = admitted, chunk
        blocks = blocks_for(view.goal[r], view.block_size)
        whole = chunk == to_prefill(view, r)
        tokens -= (blocks + 1) * view.block_size + (to_come if whole else 0)
        budget -= chunk
        free -= blocks
        admitted += 1
    return admitted
