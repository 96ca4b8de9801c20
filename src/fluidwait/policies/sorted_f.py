"""Sorted-F: batches of the waiting requests that take least output for their number, admitted one after the other.

Among the waiting requests the set X that fits an empty memory to everybody's end and has the least F(X) = (sum of
outputs) / |X|^2 is to go first, then the best set of the rest, and so on. Within a set the shortest output goes first.
A request is admitted while memory fits to everybody's end, as in :mod:`fluidwait.policies.mcsf`; the first that does
not fit ends the admissions.

Known from the abstract of arXiv:2508.06133 and from summaries, which give F; not checked against the paper's text. The
best set is hard to find: this takes the shortest outputs one by one, passes over those that do not fit, and stops where
F no longer falls. The paper has all requests at time 0; here the sets are chosen anew at every step, among the first
``window`` of the queue. Outputs, chunks and blocks are as in MC-SF.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import (
    Limits,
    PolicySettings,
    fits,
    jit,
    lowered,
    room_under,
    serve_in_order,
)
from fluidwait.policies.tools import (
    assumed_output,
    blocks_in_all,
    enter,
    fits_ahead,
    in_queue_order,
    list_residents,
    next_in_order,
    put,
    put_if_it_fits,
    steps_to_go,
    take_out,
)

CHOSEN = 2**62  # key of a request that is in an earlier set


class Settings(PolicySettings):
    token_budget: int = Field(2048, gt=0, description="tokens per batch")
    max_requests: int = Field(256, gt=0, description="requests in service at most")
    window: int = Field(512, gt=0, description="waiting requests that sets are made of")


def memory_size(knobs) -> int:
    """Two lists of requests with what they hold and what is to come: those inside, and those of a set."""
    return 4 * (knobs.max_requests + 1)


def queue_depth(knobs) -> int:
    """The window."""
    return knobs.window


def limits(knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
    room, waiting = room_under(view, knobs.max_requests), min(len(view.waiting), knobs.window)
    if room <= 0 or budget <= 0 or free <= view.watermark or waiting == 0:
        return 0, float("inf")
    for i in range(waiting):
        out.admit[i], out.chunk[i] = assumed_output(view, view.waiting[i]), 0
    size, chunk = knobs.max_requests + 1, knobs.token_budget
    have, left = memory[:size], memory[size : 2 * size]
    n = list_residents(view, have, left, chunk)
    r = view.waiting[next_in_order(out, waiting, -1, -1)]  # the first of the first set, in any case
    if not fits(view, r, free) or put_if_it_fits(view, r, assumed_output(view, r), have, left, n, chunk) == n:
        return 0, float("inf")
    n = take_out(have, left, n + 1, view.goal[r], steps_to_go(view, r, assumed_output(view, r), chunk))
    while room > 0 and budget > 0:
        chosen = _mark_best_set(view, knobs, out, waiting, memory[2 * size :])
        if chosen == 0:
            break
        for _ in range(chosen):
            position = _next_of_set(out, waiting)
            r, before = view.waiting[position], n
            if room > 0 and budget > 0 and fits(view, r, free):
                n = put_if_it_fits(view, r, assumed_output(view, r), have, left, n, chunk)
            if n == before:
                return in_queue_order(out, waiting), float("inf")
            out.admit[position] = CHOSEN
            budget, free = enter(view, out, position, budget, free)
            room -= 1
    return in_queue_order(out, waiting), float("inf")


@jit
def _mark_best_set(view, knobs, out, waiting, lists):
    """Mark the next set by keys below 0, in ascending outputs; returns how many it has."""
    size, blocks, n = knobs.max_requests + 1, blocks_in_all(view), 0
    have, left = lists[:size], lists[size:]
    total, key, position = 0, -1, -1
    while n < knobs.max_requests:
        position = next_in_order(out, waiting, key, position)
        if position < 0 or out.admit[position] == CHOSEN:
            break
        r, key = view.waiting[position], out.admit[position]
        if n > 0 and (total + key) * n * n >= total * (n + 1) * (n + 1):
            break  # F no longer falls, and later outputs are no shorter
        steps = steps_to_go(view, r, key, knobs.token_budget)
        n = put(have, left, n, view.goal[r], steps)
        if n > 1 and not fits_ahead(have, left, n, view.block_size, blocks - 1):
            n = take_out(have, left, n, view.goal[r], steps)
            continue
        total += key
        out.admit[position] = -key
    return n


@jit
def _next_of_set(out, waiting):
    """The request of the set with the least output; of equals the first in the queue."""
    following = -1
    for i in range(waiting):
        if out.admit[i] < 0 and (following < 0 or out.admit[i] > out.admit[following]):
            following = i
    return following
