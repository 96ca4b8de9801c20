"""LightLLM's past-future scheduler: admit while the memory that is expected at its peak fits.

With the running requests and the newcomer sorted by the tokens b_i that are still to come, most first, and a_i the
tokens that each holds, memory peaks at the largest b_i i + (a_1 + ... + a_i). There is a round of admissions every
``round_steps`` decode steps, first come, first served; the prefills of a round are a batch of their own, of whole
prompts. When decodes do not fit, the newest request loses its memory and waits at the head of the queue.

What is still to come is what is predicted. Without a prediction it is what outputs of the past say: their mean, among
those that are longer than the tokens so far, from the lengths that the policy is prepared for (the engine collects them
while it serves). The paper draws from these outputs instead, so as to be right more often than on average.

Checked against the source (``req_queue``, the router's manager) for the peak and the rounds; the sampling is known from
the abstract of arXiv:2507.10150. Here memory is counted in blocks, and one request enters when nobody else is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.policies.contract import (
    Context,
    Limits,
    Needs,
    PolicySettings,
    blocks_for,
    fits,
    jit,
    lowered,
    room_under,
    to_prefill,
)
from fluidwait.policies.tools import blocks_in_all, decode_all, fits_ahead, newest_if_overdrawn, put

MOST_NOTED = 65_536  # tokens of output up to which the past is looked up


class Settings(PolicySettings):
    round_steps: int = Field(6, ge=0, description="decode steps between admissions (router_max_wait_tokens)")
    prefill_tokens: int = Field(8192, gt=0, description="tokens of a batch of prefills (batch_max_tokens)")
    max_requests: int = Field(1000, gt=0, description="requests in service at most (running_max_req_size)")


class Knobs(NamedTuple):
    round_steps: int
    prefill_tokens: int
    max_requests: int
    expected: np.ndarray  # int64, by tokens so far: output in all, as the past has it


def prepare(settings: Settings, context: Context) -> Knobs:
    """The settings, and the mean output of those that are longer than 0, 1, 2, ... tokens."""
    order = np.argsort(-context.law.output, kind="stable")
    output, share = context.law.output[order], context.law.share[order]
    so_far = np.arange(min(int(output[0]), MOST_NOTED))
    longer = np.searchsorted(-output, -so_far, side="left")  # how many of the law's outputs are
    mean = np.cumsum(output * share)[longer - 1] / np.cumsum(share)[longer - 1]
    limits_of = (settings.round_steps, settings.prefill_tokens, settings.max_requests)
    return Knobs(*limits_of, np.ceil(mean - 1e-9).astype(np.int64))


def needs(settings: Settings) -> Needs:
    """The lengths only."""
    return Needs(times=False, rate=False)


def memory_size(knobs: Knobs) -> int:
    """The steps since the last round, and the list of the requests with what they hold and what is to come."""
    return 1 + 2 * (knobs.max_requests + 1)


def limits(knobs: Knobs) -> Limits:
    """Requests in service; prompts are never split."""
    return Limits(knobs.max_requests)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests)


victim = newest_if_overdrawn


@jit
def plan(view, knobs, memory, out):
    if len(view.resident) == 0 or memory[0] >= knobs.round_steps:
        admitted = _admit(view, knobs, memory, out)
        if admitted > 0:
            memory[0] = 0
            return admitted, float("inf")
    decodes, _ = decode_all(view, out)
    if decodes > 0:
        memory[0] += 1
    return 0, float("inf")


@jit
def _to_come(view, knobs, r):
    """Tokens of output that are expected of request ``r``."""
    tokens = view.generated[r]
    if view.predicted[r] > 0:
        in_all = view.predicted[r]
    else:
        in_all = knobs.expected[tokens] if tokens < len(knobs.expected) else 0
    return max(min(in_all, view.max_output[r]) - tokens, 1)


@jit
def _admit(view, knobs, memory, out):
    """A round of admissions; returns how many."""
    have, left = memory[1 : 2 + knobs.max_requests], memory[2 + knobs.max_requests :]
    room, tokens, free, n = room_under(view, knobs.max_requests), knobs.prefill_tokens, view.free, 0
    if room <= 0:
        return 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        n = put(have, left, n, max(view.goal[r], view.cached[r]), _to_come(view, knobs, r))
    blocks, admitted = blocks_in_all(view), 0
    while admitted < min(len(view.waiting), room):
        r = view.waiting[admitted]
        chunk = to_prefill(view, r)
        if (admitted > 0 and chunk > tokens) or not fits(view, r, free):
            break
        n = put(have, left, n, view.goal[r], _to_come(view, knobs, r))
        if n > 1 and not fits_ahead(have, left, n, view.block_size, blocks):
            break
        out.admit[admitted], out.chunk[admitted] = admitted, chunk
        tokens -= chunk
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    return admitted
