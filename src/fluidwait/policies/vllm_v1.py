"""vLLM's present scheduler (V1): one token budget shared by decodes and prefill chunks, FCFS.

Running requests come first, in admission order; after an eviction nothing is admitted in the same step while any is
left. Like vLLM with ``scheduler_reserve_full_isl`` a prompt is admitted only when all of it fits.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import (
    NO_LIMIT,
    Limits,
    PolicySettings,
    admit_in_order,
    jit,
    lowered,
    room_under,
    serve_in_order,
)


class Settings(PolicySettings):
    token_budget: int = Field(2048, gt=0, description="tokens per batch (max_num_batched_tokens)")
    max_requests: int = Field(256, gt=0, description="requests in service at most (max_num_seqs)")


def limits(knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def stock_limits(knobs) -> Limits:
    """Under vLLM's own rules this policy is the engine itself, with these settings."""
    return limits(knobs)


def fills_batches(settings: Settings) -> bool:
    """A backlog does."""
    return True


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
    return admit_in_order(view, out, room_under(view, knobs.max_requests), NO_LIMIT, budget, free), float("inf")
