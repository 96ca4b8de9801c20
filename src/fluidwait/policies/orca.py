"""Orca, as in Vidur's ``OrcaReplicaScheduler``: whole prompts mixed with decodes, memory reserved for the longest
sequence at admission, so that nothing is ever evicted."""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import Limits, PolicySettings, jit, lowered, to_prefill


class Settings(PolicySettings):
    max_requests: int = Field(128, gt=0, description="requests in service at most")
    max_model_len: int = Field(4096, gt=0, description="tokens reserved for every admitted request")


def reserved_tokens(knobs) -> int:
    """Tokens whose KV blocks every admitted request gets up front."""
    return knobs.max_model_len


def limits(knobs) -> Limits:
    """Requests in service; prompts are never split."""
    return Limits(knobs.max_requests)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests)


@jit
def plan(view, knobs, memory, out):
    out.tokens[: len(view.resident)] = 1  # prompts run whole, so every resident decodes
    blocks = knobs.max_model_len // view.block_size
    room = min(knobs.max_requests - len(view.resident), view.free // blocks)
    admitted = max(0, min(len(view.waiting), room))
    for i in range(admitted):
        out.admit[i] = i
        out.chunk[i] = to_prefill(view, view.waiting[i])
    return admitted, float("inf")
