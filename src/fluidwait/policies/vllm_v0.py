"""vLLM's first scheduler, as in Vidur's ``VLLMReplicaScheduler``: prefills have priority, in batches of their own.

While the prompt at the head of the queue fits memory, the token cap and the request cap, the batch is whole prompts
only; otherwise it is one token for every running request.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import PolicySettings, blocks_for, fits, jit


class Settings(PolicySettings):
    max_requests: int = Field(128, gt=0, description="requests in service at most")
    token_cap: int = Field(4096, gt=0, description="tokens of a prefill batch at most")


def longest_prompt(knobs) -> int:
    """Tokens of the longest prefill that this policy can ever admit: it never splits a prompt."""
    return knobs.token_cap


@jit
def plan(view, knobs, memory, out):
    admitted, tokens, free = 0, 0, view.free
    room = knobs.max_requests - len(view.resident)
    # After an eviction the running requests are served first: the victim must not come straight back.
    while view.evicted == 0 and admitted < min(len(view.waiting), room):
        r = view.waiting[admitted]
        if not fits(view, r, free) or tokens + view.goal[r] > knobs.token_cap:
            break
        out.admit[admitted] = admitted
        out.chunk[admitted] = view.goal[r]
        tokens += view.goal[r]
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    if admitted == 0:
        out.tokens[: len(view.resident)] = 1
    return admitted, float("inf")
