"""Flow control: at most so many requests start in a step, first in, first out; the last in is the first to go.

Running requests go first and share ``token_budget`` with admissions, as in :mod:`fluidwait.policies.vllm_v1`. Of the
waiting ones at most ``per_step`` are admitted in a step, on average where that is no whole number. When decodes do not
fit, the engine evicts the newest.

'memory' is the rate at which memory is used to ``share`` of the capacity on average: share C / w, where w is the mean
of s o + o (o + 1) / 2, the KV-token steps of a request with prompt s and output o.

Known from the abstract of arXiv:2604.11001 and from a summary; not checked against the paper's text, which has a budget
to be tuned and a condition on the memory used on average, the reason for the default here. Where nobody is in service
one request starts in any case.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    Limits,
    Needs,
    PolicySettings,
    admit_in_order,
    even_quota,
    jit,
    lowered,
    room_under,
    serve_in_order,
)


class Settings(PolicySettings):
    per_step: Annotated[float, Field(gt=0)] | Literal["memory"] = Field(
        "memory", description="requests that start in a step, on average; 'memory': as many as the capacity carries"
    )
    share: float = Field(0.9, gt=0, le=1, description="of the capacity in use on average, for 'memory'")
    token_budget: int = Field(2048, gt=0, description="tokens per batch")
    max_requests: int = Field(256, gt=0, description="requests in service at most")


class Knobs(NamedTuple):
    per_step: float
    token_budget: int
    max_requests: int


def prepare(settings: Settings, context: Context) -> Knobs:
    """The number in the settings, or the one that memory carries."""
    rate = settings.per_step
    if isinstance(rate, str):
        prompt, output, share = context.law
        rate = settings.share * context.capacity / float(share @ (prompt * output + output * (output + 1) / 2))
    return Knobs(min(rate, float(settings.max_requests)), settings.token_budget, settings.max_requests)


def needs(settings: Settings) -> Needs:
    """The lengths, where the number is not given."""
    return Needs(any_output=None if settings.per_step == "memory" else 1, times=False, rate=False)


def limits(knobs: Knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    """``memory[0]`` counts the steps that serve somebody."""
    budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
    most = even_quota(memory[0], knobs.per_step)
    if len(view.resident) == 0:
        most = max(most, 1)
    admitted = admit_in_order(view, out, min(most, room_under(view, knobs.max_requests)), NO_LIMIT, budget, free)
    if budget < knobs.token_budget or admitted > 0:
        memory[0] += 1
    return admitted, float("inf")
