"""vLLM's first scheduler, as in Vidur's ``VLLMReplicaScheduler``: prefills have priority, in batches of their own.

While the prompt at the head of the queue fits memory, the token cap and the request cap, the batch is whole prompts
only; otherwise it is one token for every running request. A request whose prompt was prefilled elsewhere has nothing to
prefill: it joins the decodes.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import (
    NO_LIMIT,
    Limits,
    PolicySettings,
    admit_in_order,
    blocks_for,
    fits,
    growth,
    is_prefilled,
    jit,
    lowered,
    room_under,
    to_prefill,
)


class Settings(PolicySettings):
    max_requests: int = Field(128, gt=0, description="requests in service at most")
    token_cap: int = Field(4096, gt=0, description="tokens of a prefill batch at most")


def longest_prompt(knobs) -> int:
    """Tokens of the longest prefill that this policy can ever admit: it never splits a prompt."""
    return knobs.token_cap


def limits(knobs) -> Limits:
    """Requests in service; prompts are never split, and a batch of decodes has no token cap."""
    return Limits(knobs.max_requests)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests)


@jit
def plan(view, knobs, memory, out):
    # After an eviction the running requests are served first, if any: the victim must not come straight back.
    room = room_under(view, knobs.max_requests)
    admitted = _prefill(view, knobs, out, room)
    if admitted > 0:
        return admitted, float("inf")
    out.tokens[: len(view.resident)] = 1
    return _join(view, out, room), float("inf")


@jit
def _prefill(view, knobs, out, room):
    """Admit whole prompts from the head of the queue; returns how many."""
    admitted, tokens, free = 0, 0, view.free
    while admitted < min(len(view.waiting), room):
        r = view.waiting[admitted]
        if is_prefilled(view, r) or not fits(view, r, free) or tokens + to_prefill(view, r) > knobs.token_cap:
            break
        out.admit[admitted] = admitted
        out.chunk[admitted] = to_prefill(view, r)
        tokens += out.chunk[admitted]
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    return admitted


@jit
def _join(view, out, room):
    """Admit requests that were prefilled elsewhere into a batch of decodes; returns how many."""
    joining = 0
    while joining < min(len(view.waiting), room) and is_prefilled(view, view.waiting[joining]):
        joining += 1
    if joining == 0:
        return 0
    free = view.free
    for k in range(len(view.resident)):
        free -= growth(view, view.resident[k])
    return admit_in_order(view, out, joining, NO_LIMIT, NO_LIMIT, free)
