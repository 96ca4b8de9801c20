"""Text Generation Inference: whole sequences reserved, batches of prefills that wait for company.

A request enters when its prompt and all output that its client allows fit the memory beside those of the running ones,
so that nothing is ever evicted. Prefills are batches of their own, whole prompts up to ``prefill_tokens``. While
requests run, a new batch must have at least ``waiting_served_ratio`` of their number; after ``max_waiting_tokens``
decode steps without one, any will do. Every batch of prefills is followed by a decode of all.

Checked against the source of version 3 (``backend.rs``, ``queue.rs``), without prefix cache. A prediction of the output
takes the place of what the client allows; where it is too short, the newest request has to go. Here a prompt that is
longer than a batch may be goes alone, and a request that never fits with its reservation enters when nobody else is
there: the engine would refuse both.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import Limits, PolicySettings, jit, lowered, room_under
from fluidwait.policies.tools import admit_whole, decode_all, newest_if_overdrawn

STEPS, DECODE_FIRST = 0, 1  # in memory: decode steps since the last prefills, counted from 1; they were just now


class Settings(PolicySettings):
    waiting_served_ratio: float = Field(0.3, ge=0, description="of the running requests that a new batch must have")
    max_waiting_tokens: int = Field(20, ge=0, description="decode steps after which any new batch will do")
    prefill_tokens: int = Field(4096, gt=0, description="tokens of a batch of prefills (max_batch_prefill_tokens)")
    max_requests: int = Field(1_000_000, gt=0, description="requests in service at most (max_batch_size)")


def memory_size(knobs) -> int:
    """A count and a mark."""
    return 2


def limits(knobs) -> Limits:
    """Requests in service; prompts are never split."""
    return Limits(knobs.max_requests)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests)


victim = newest_if_overdrawn


@jit
def plan(view, knobs, memory, out):
    running = len(view.resident)
    if running == 0 or memory[DECODE_FIRST] == 0:
        admitted = _new_batch(view, knobs, memory, out)
        if admitted > 0:
            memory[STEPS], memory[DECODE_FIRST] = 1, 1
            return admitted, float("inf")
    if running > 0:
        decode_all(view, out)
        memory[STEPS] += 1
        memory[DECODE_FIRST] = 0
    return 0, float("inf")


@jit
def _new_batch(view, knobs, memory, out):
    """Admit a batch, if it is large enough; returns how many."""
    running, least = len(view.resident), 1
    if running > 0 and memory[STEPS] < knobs.max_waiting_tokens:
        least = int(running * knobs.waiting_served_ratio)
    if len(view.waiting) < least:
        return 0
    admitted = admit_whole(view, out, room_under(view, knobs.max_requests), knobs.prefill_tokens, True)
    return admitted if admitted >= least else 0
