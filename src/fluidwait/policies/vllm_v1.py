"""vLLM's present scheduler (V1): one token budget shared by decodes and prefill chunks, FCFS.

Running requests come first, in admission order; after an eviction nothing is admitted in the same step while any is
left. Like vLLM with ``scheduler_reserve_full_isl`` a prompt is admitted only when all of it fits.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import NO_LIMIT, PolicySettings, admit_in_order, growth, is_decoding, jit


class Settings(PolicySettings):
    token_budget: int = Field(2048, gt=0, description="tokens per batch (max_num_batched_tokens)")
    max_requests: int = Field(256, gt=0, description="requests in service at most (max_num_seqs)")


@jit
def plan(view, knobs, memory, out):
    budget, free = knobs.token_budget, view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        if budget == 0:
            break
        if is_decoding(view, r):
            out.tokens[k] = 1
            free -= growth(view, r)
        else:
            out.tokens[k] = min(view.goal[r] - view.cached[r], budget)
        budget -= out.tokens[k]
    room = 0 if view.evicted > 0 and len(view.resident) > 0 else knobs.max_requests - len(view.resident)
    return admit_in_order(view, out, room, NO_LIMIT, budget, free), float("inf")
