"""MC-SF, shortest first under a memory constraint: the shortest output enters while memory fits to everybody's end.

The waiting requests are taken in the order of their outputs. One is admitted while, at the end of every request inside,
those that are still there fit the memory, each with one more token a step. The first that does not fit ends the
admissions. Running requests go first and share ``token_budget`` with prefill chunks, as in vLLM.

Known from the abstract of arXiv:2502.07115 and from summaries; not checked against the paper's text, which prefills a
prompt in one step. Here a prompt takes as many steps as it has chunks, and memory is counted in blocks, one of which
stays free for the engine. The output is the predicted one, else all that the client allows. One request enters when
nobody else is there. Where predictions are too short the engine evicts the newest.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import Limits, PolicySettings, fits, jit, lowered, room_under, serve_in_order
from fluidwait.policies.tools import (
    assumed_output,
    enter,
    in_queue_order,
    list_residents,
    next_in_order,
    put_if_it_fits,
)


class Settings(PolicySettings):
    token_budget: int = Field(2048, gt=0, description="tokens per batch")
    max_requests: int = Field(256, gt=0, description="requests in service at most")


def memory_size(knobs) -> int:
    """The list of the requests, with what they hold and what is to come."""
    return 2 * (knobs.max_requests + 1)


def limits(knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
    room, waiting = room_under(view, knobs.max_requests), len(view.waiting)
    if room <= 0 or budget <= 0 or free <= view.watermark or waiting == 0:
        return 0, float("inf")
    for i in range(waiting):
        out.admit[i], out.chunk[i] = assumed_output(view, view.waiting[i]), 0
    have, left = memory[: knobs.max_requests + 1], memory[knobs.max_requests + 1 :]
    n = list_residents(view, have, left, knobs.token_budget)
    key, position = -1, -1
    while room > 0 and budget > 0:
        position = next_in_order(out, waiting, key, position)
        if position < 0 or not fits(view, view.waiting[position], free):
            break
        r, key = view.waiting[position], out.admit[position]
        before = n
        n = put_if_it_fits(view, r, assumed_output(view, r), have, left, n, knobs.token_budget)
        if n == before:
            break
        budget, free = enter(view, out, position, budget, free)
        room -= 1
    return in_queue_order(out, waiting), float("inf")
