"""A_min: outputs known as intervals; take the lower bound, and raise it as tokens come.

A request is taken to generate its lower bound, or one token more than it has, whichever is more. The waiting requests
are admitted shortest first while memory fits to everybody's assumed end, as in :mod:`fluidwait.policies.mcsf`. When the
decodes of a step do not fit, the resident with the least assumed output goes, and keeps what it has shown as its lower
bound.

The lower bound of a prediction with error sd is the prediction times exp(-``deviations`` sd). Without predictions it is
the shortest output of the lengths that the policy is prepared for.

Known from the abstract of arXiv:2508.14544 and from summaries; not checked against the paper's text. In the paper an
evicted request starts over; here that is up to the engine, and a restart forgets the raised bound. Chunks and blocks
are as in MC-SF.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import Field

from fluidwait.policies.contract import (
    Context,
    Limits,
    Needs,
    PolicySettings,
    fits,
    jit,
    lowered,
    room_under,
    serve_in_order,
)
from fluidwait.policies.tools import enter, in_queue_order, is_short, next_in_order, put, put_if_it_fits, steps_to_go


class Settings(PolicySettings):
    deviations: float = Field(2.0, ge=0, description="standard deviations from a prediction to its lower bound")
    token_budget: int = Field(2048, gt=0, description="tokens per batch")
    max_requests: int = Field(256, gt=0, description="requests in service at most")


class Knobs(NamedTuple):
    share: float  # lower bound of a prediction, as a share of it
    shortest: int  # tokens: the lower bound without one
    token_budget: int
    max_requests: int


def prepare(settings: Settings, context: Context) -> Knobs:
    """Lower bounds from the error of the predictions and from the lengths."""
    share = math.exp(-settings.deviations * (context.prediction_error or 0.0))
    return Knobs(share, max(int(context.law.output.min()), 1), settings.token_budget, settings.max_requests)


def needs(settings: Settings) -> Needs:
    """The lengths only."""
    return Needs(times=False, rate=False)


def memory_size(knobs: Knobs) -> int:
    """The list of the requests, with what they hold and what is to come."""
    return 2 * (knobs.max_requests + 1)


def limits(knobs: Knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def _bound(view, knobs, r):
    """Assumed output of request ``r``, tokens."""
    least = int(view.predicted[r] * knobs.share) if view.predicted[r] > 0 else knobs.shortest
    return max(least, view.generated[r] + 1)


@jit
def victim(view, knobs, out):
    if not is_short(view, out):
        return -1
    least = 0
    for k in range(1, len(view.resident)):
        if _bound(view, knobs, view.resident[k]) <= _bound(view, knobs, view.resident[least]):
            least = k
    return least


@jit
def plan(view, knobs, memory, out):
    budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
    room, waiting = room_under(view, knobs.max_requests), len(view.waiting)
    if room <= 0 or budget <= 0 or free <= view.watermark or waiting == 0:
        return 0, float("inf")
    for i in range(waiting):
        out.admit[i], out.chunk[i] = _bound(view, knobs, view.waiting[i]), 0
    have, left, n = memory[: knobs.max_requests + 1], memory[knobs.max_requests + 1 :], 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        steps = steps_to_go(view, r, _bound(view, knobs, r), knobs.token_budget)
        n = put(have, left, n, max(view.goal[r], view.cached[r]), steps)
    key, position = -1, -1
    while room > 0 and budget > 0:
        position = next_in_order(out, waiting, key, position)
        if position < 0 or not fits(view, view.waiting[position], free):
            break
        key, before = out.admit[position], n
        n = put_if_it_fits(view, view.waiting[position], key, have, left, n, knobs.token_budget)
        if n == before:
            break
        budget, free = enter(view, out, position, budget, free)
        room -= 1
    return in_queue_order(out, waiting), float("inf")
