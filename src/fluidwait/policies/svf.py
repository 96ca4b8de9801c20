"""Smallest volume first: vLLM's rule, with the queue in the order of the memory that requests take over their lives.

The volume of a request with prompt s and output o is s o + o (o + 1) / 2 KV-token steps. Running requests go first, and
share ``token_budget`` with admissions, as in :mod:`fluidwait.policies.vllm_v1`; the next one in the order that does not
fit ends the admissions.

Known from the abstract of arXiv:2606.22327, which puts such an order in front of vLLM, and from a summary; not checked
against the paper's text. The output is the predicted one, else all that the client allows. A request that has been
evicted keeps its volume.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import Limits, PolicySettings, fits, jit, lowered, room_under, serve_in_order
from fluidwait.policies.tools import assumed_output, enter, in_queue_order, next_in_order


class Settings(PolicySettings):
    token_budget: int = Field(2048, gt=0, description="tokens per batch (max_num_batched_tokens)")
    max_requests: int = Field(256, gt=0, description="requests in service at most (max_num_seqs)")


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
    if room <= 0 or budget <= 0 or free <= view.watermark:
        return 0, float("inf")
    for i in range(waiting):
        out.admit[i], out.chunk[i] = _volume(view, view.waiting[i]), 0
    key, position = -1, -1
    while room > 0 and budget > 0:
        position = next_in_order(out, waiting, key, position)
        if position < 0 or not fits(view, view.waiting[position], free):
            break
        key = out.admit[position]
        budget, free = enter(view, out, position, budget, free)
        room -= 1
    return in_queue_order(out, waiting), float("inf")


@jit
def _volume(view, r):
    output, prompt = assumed_output(view, r), view.goal[r] - view.generated[r]
    return prompt * output + output * (output + 1) // 2
