"""TensorRT-LLM's capacity scheduler: reserve all that a request may need, or fill the memory and pause the last one.

First come, first served; decodes go before prefills in a batch of ``token_budget`` tokens. With ``mode: no_evict``
(GUARANTEED_NO_EVICT, the engine's default) a request enters when the blocks of its prompt and of all output that its
client allows are there beside those that the running requests may still take. Nothing is ever evicted. With ``mode:
max_utilization`` it enters when its prompt fits. When the next tokens do not fit, the request that started last is
paused, its memory dropped; it stays at its place, ahead of those that never ran.

Batch waiting (``wait_share``, ``wait_iterations``; off by default) holds prefills back while decodes run, until the
batch would have that share of the budget or so many iterations have passed.

Checked against the source (``capacityScheduler`` in its Python form, ``PyExecutor._waiting_requests``), without block
reuse, two-step look-ahead and adapters. Prompts are whole unless ``chunked``, as by default. A prediction of the output
takes the place of what the client allows; where it is too short, the newest request has to go in either mode.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from fluidwait.policies.contract import (
    NO_LIMIT,
    Limits,
    Needs,
    PolicySettings,
    blocks_for,
    fits,
    jit,
    lowered,
    room_under,
    to_prefill,
)
from fluidwait.policies.tools import (
    assumed_output,
    blocks_at_end,
    decode_all,
    go_on_with_prefills,
    newest_if_overdrawn,
    unreserved,
)


class Settings(PolicySettings):
    mode: Literal["no_evict", "max_utilization"] = Field("no_evict", description="the capacity scheduler's policy")
    token_budget: int = Field(8192, gt=0, description="tokens per batch (max_num_tokens)")
    max_requests: int = Field(2048, gt=0, description="requests in service at most (max_batch_size)")
    chunked: bool = Field(False, description="prompts may be cut (enable_chunked_prefill)")
    wait_share: float = Field(0.0, ge=0, le=1, description="of the budget (batch_wait_max_tokens_ratio)")
    wait_iterations: int = Field(0, ge=0, description="that prefills are held at most (batch_wait_timeout_iters)")


class Knobs(NamedTuple):
    reserves: bool
    token_budget: int
    max_requests: int
    chunked: bool
    wait_share: float
    wait_iterations: int


def prepare(settings: Settings, context) -> Knobs:
    """The settings as numbers; nothing of the context is needed."""
    return Knobs(settings.mode == "no_evict", *(getattr(settings, name) for name in Knobs._fields[1:]))


def needs(settings: Settings) -> Needs:
    """Nothing."""
    return Needs(any_output=1, times=False, rate=False)


def limits(knobs: Knobs) -> Limits:
    """Requests in service and, where prompts are cut, tokens of a batch."""
    return Limits(knobs.max_requests, knobs.token_budget if knobs.chunked else NO_LIMIT)


def longest_prompt(knobs: Knobs) -> int:
    """A prompt that is not cut must fit a batch."""
    return NO_LIMIT if knobs.chunked else knobs.token_budget


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


victim = newest_if_overdrawn


@jit
def plan(view, knobs, memory, out):
    decodes, free = decode_all(view, out)
    left = go_on_with_prefills(view, out, knobs.token_budget - decodes)
    admitted = _admit(view, knobs, out, left, free)
    if admitted > 0 and decodes > 0 and _waits(view, knobs, out, admitted, left, memory):
        return 0, float("inf")
    return admitted, float("inf")


@jit
def _waits(view, knobs, out, admitted, left, memory):
    """Whether the admissions are held back, for the ``memory[0]``-th time in a row."""
    tokens = knobs.token_budget - left
    for i in range(admitted):
        tokens += out.chunk[i]
    if memory[0] >= knobs.wait_iterations or tokens >= knobs.wait_share * knobs.token_budget:
        memory[0] = 0
        return False
    memory[0] += 1
    return True


@jit
def _admit(view, knobs, out, left, free):
    """Admit first come, first served; returns how many."""
    reservable, room, admitted = unreserved(view), room_under(view, knobs.max_requests), 0
    while admitted < min(len(view.waiting), room) and left > 0:
        r = view.waiting[admitted]
        in_all = blocks_at_end(view, r, assumed_output(view, r))
        alone = admitted == 0 and len(view.resident) == 0
        if not fits(view, r, free) or (knobs.reserves and in_all > reservable and not alone):
            break
        chunk = to_prefill(view, r)
        if chunk > left:
            if not knobs.chunked:
                break
            chunk = left
        out.admit[admitted], out.chunk[admitted] = admitted, chunk
        left -= chunk
        free -= blocks_for(view.goal[r], view.block_size)
        reservable -= in_all
        admitted += 1
    return admitted
