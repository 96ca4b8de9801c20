"""vLLM's present scheduler (V1): one token budget shared by decodes and prefill chunks, FCFS.

Running requests come first, in admission order; after an eviction nothing is admitted in the same step. Like vLLM
with ``scheduler_reserve_full_isl`` a prompt is admitted only when all of it fits.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import PolicySettings, blocks_for, fits, growth, is_decoding, jit


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
    admitted, room = 0, knobs.max_requests - len(view.resident)
    while view.evicted == 0 and admitted < min(len(view.waiting), room) and budget > 0:
        r = view.waiting[admitted]
        if not fits(view, r, free):
            break
        out.admit[admitted] = admitted
        out.chunk[admitted] = min(view.goal[r], budget)
        budget -= out.chunk[admitted]
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    return admitted, float("inf")
