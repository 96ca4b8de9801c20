"""Sarathi-Serve: every decode advances, and prefill chunks fill the rest of a token budget.

As in Vidur's ``SarathiReplicaScheduler``: running prefills come before new ones, FCFS, and a whole prompt's KV memory
is reserved when it is admitted.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import (
    NO_LIMIT,
    Limits,
    PolicySettings,
    admit_in_order,
    growth,
    is_decoding,
    jit,
    lowered,
)


class Settings(PolicySettings):
    token_budget: int = Field(512, gt=0, description="tokens per batch that prefill chunks fill up to")
    max_requests: int = Field(256, gt=0, description="requests in service at most")


def limits(knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def fills_batches(settings: Settings) -> bool:
    """A backlog does."""
    return True


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    budget, free = knobs.token_budget, view.free
    half_prefilled = len(view.resident)  # the first of them
    for k in range(len(view.resident)):
        r = view.resident[k]
        if is_decoding(view, r):
            out.tokens[k] = 1
            budget -= 1
            free -= growth(view, r)
        else:
            half_prefilled = min(half_prefilled, k)
    for k in range(half_prefilled, len(view.resident)):
        r = view.resident[k]
        if not is_decoding(view, r) and budget > 0:
            out.tokens[k] = min(view.goal[r] - view.cached[r], budget)
            budget -= out.tokens[k]
    room = knobs.max_requests - len(view.resident)
    return admit_in_order(view, out, room, NO_LIMIT, budget, free), float("inf")
