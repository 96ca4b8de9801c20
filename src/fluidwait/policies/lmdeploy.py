"""LMDeploy's PyTorch engine: decodes, interrupted by batches of whole prefills.

A batch is prefills when ``prefill_interval`` decode steps have passed since the last ones, when at least
``prefill_tokens`` prompt tokens wait, or when fewer than half of ``max_requests`` run. Else, and when the first that
waits does not fit, it is one token for every running request. Prefills are first come, first served, up to
``prefill_tokens``. When decodes do not fit, the request that came last loses its memory and waits at the head of the
queue.

Checked against the source (``inputs_maker.py`` and ``scheduler.py`` of the PyTorch engine), without long-context chunks
and prefix cache. By default the number of slots depends on the device; 128 is the documented one.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import Limits, PolicySettings, jit, lowered, room_under, to_prefill
from fluidwait.policies.tools import admit_whole, decode_all, newest_if_overdrawn


class Settings(PolicySettings):
    prefill_interval: int = Field(16, gt=0, description="decode steps after which prefills come")
    prefill_tokens: int = Field(8192, gt=0, description="tokens of a batch of prefills (max_prefill_token_num)")
    max_requests: int = Field(128, gt=0, description="slots (max_batch_size)")


def limits(knobs) -> Limits:
    """Requests in service; prompts are never split."""
    return Limits(knobs.max_requests)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests)


victim = newest_if_overdrawn


@jit
def plan(view, knobs, memory, out):
    """``memory[0]`` counts the decode steps while somebody waits."""
    if _is_time(view, knobs, memory):
        room = room_under(view, knobs.max_requests)
        admitted = admit_whole(view, out, room, knobs.prefill_tokens, False)
        if admitted > 0:
            memory[0] = 0
            return admitted, float("inf")
    decodes, _ = decode_all(view, out)
    if decodes > 0:
        memory[0] = memory[0] + 1 if len(view.waiting) > 0 else 0
    return 0, float("inf")


@jit
def _is_time(view, knobs, memory):
    if len(view.waiting) == 0:
        return False
    if memory[0] >= knobs.prefill_interval or 2 * len(view.resident) < knobs.max_requests:
        return True
    tokens = 0
    for i in range(len(view.waiting)):
        tokens += to_prefill(view, view.waiting[i])
        if tokens >= knobs.prefill_tokens:
            return True
    return False
