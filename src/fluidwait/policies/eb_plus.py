"""EB+: prefills and decodes in phases of their own where that pays, and mixed as in vLLM where it does not.

In the exclusive mode a phase of decodes ends when min(q, N - n) / n reaches theta / (1 - theta), with q requests
waiting, n in service and N at most. Then so many are prefilled, in steps of ``token_budget`` tokens without decodes.
For outputs that end at a constant rate p = 1 / mean the best theta solves theta / (1 - theta) + ln(1 - theta) = p a_p /
a_d, where a step of x tokens takes a + b x seconds: a_p, b_p for prefills, a_d, b_d for decodes, a_m, b_m for mixed
ones.

With ``mode: auto`` exclusive steps are taken when a request costs less in them: with mean prompt L and output o, (a_p -
a_d o ln(1 - theta)) / (theta N) + b_p L + b_d o < a_m (1 + o) / N + b_m (L + o).

Checked against the source that comes with arXiv:2606.00516 (a fork of vLLM) for the phases, theta and the choice. That
code learns p, L and o and keeps an estimate of the hazard rate; here they come from the lengths that the policy is
prepared for, a and b are fitted to the time model, and N is the number of mean requests that memory holds.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.device.timing import BatchSums, in_python, iteration_time
from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    Limits,
    PolicySettings,
    admit_in_order,
    jit,
    lowered,
    room_under,
    serve_in_order,
)
from fluidwait.policies.tools import decode_all, go_on_with_prefills, half_prefilled

LEAST, MOST = 0.01, 0.8  # theta, as the code bounds it
PARTS = 32  # sizes of a step, up to a full one, to which a and b are fitted


class Settings(PolicySettings):
    mode: Literal["auto", "exclusive", "mixed"] = Field("auto", description="steps of one phase, or mixed ones")
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field("auto", description="theta")
    token_budget: int = Field(2048, gt=0, description="tokens per batch (max_num_batched_tokens)")
    max_requests: int = Field(256, gt=0, description="requests in service at most (max_num_seqs)")


class Knobs(NamedTuple):
    exclusive: bool
    threshold: float
    token_budget: int
    max_requests: int


class Costs(NamedTuple):
    """Seconds of a step of x tokens: a + b x."""

    a: float
    b: float


def prepare(settings: Settings, context: Context) -> Knobs:
    """The settings, or what the time model and the lengths say."""
    law = context.law
    prompt, output = float(law.share @ law.prompt), float(law.share @ law.output)
    batch = max(min(settings.max_requests, int(context.capacity / (prompt + output))), 2)
    prefill, decode, mixed = _costs(context.time_model, prompt, output, batch, settings.token_budget)
    theta = settings.threshold
    if isinstance(theta, str):
        theta = _best_threshold(prefill.a / max(decode.a, 1e-12) / output)
    exclusive = settings.mode == "exclusive"
    if settings.mode == "auto":
        apart = (prefill.a - decode.a * output * math.log1p(-theta)) / (theta * batch)
        apart += prefill.b * prompt + decode.b * output
        exclusive = apart < mixed.a * (1 + output) / batch + mixed.b * (prompt + output)
    return Knobs(exclusive, theta, settings.token_budget, settings.max_requests)


def _costs(times, prompt: float, output: float, batch: int, budget: int) -> tuple[Costs, Costs, Costs]:
    """Of prefills, of decodes and of mixed steps with their mean share of prefill tokens."""
    context = prompt + output / 2

    def seconds(prefill_tokens: float, decodes: float) -> float:
        tokens, read = round(prefill_tokens), round(decodes)
        prefills = math.ceil(prefill_tokens / prompt) if tokens else 0
        chunk = min(prompt, prefill_tokens)
        sums = BatchSums(
            tokens + read,
            round(tokens + decodes * context),
            prefills,
            tokens,
            round(prefills * chunk * chunk),
            0,
            read,
            round(decodes * context),
            round(max(chunk, context if read else 0)),
        )
        return float(in_python(iteration_time)(times, sums))

    def fitted(prefill_tokens: float, decodes: float) -> Costs:
        parts = np.arange(1, PARTS + 1) / PARTS
        took = [seconds(part * prefill_tokens, part * decodes) for part in parts]
        slope, constant = np.polyfit(parts * (prefill_tokens + decodes), took, 1)
        return Costs(max(float(constant), 0.0), max(float(slope), 0.0))

    together = min(batch, budget * output / (prompt + output))  # decodes of a full step that prefills keep up with
    return fitted(budget, 0), fitted(0, batch), fitted(together * prompt / output, together)


def _best_threshold(ratio: float) -> float:
    """The root of theta / (1 - theta) + ln(1 - theta) = ``ratio``, which increases with theta."""
    low, high = LEAST, MOST
    for _ in range(60):
        theta = (low + high) / 2
        if theta / (1 - theta) + math.log1p(-theta) < ratio:
            low = theta
        else:
            high = theta
    return high


def limits(knobs: Knobs) -> Limits:
    """A token budget and requests in service."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    """``memory[0]``: how many are still to enter in this phase of prefills."""
    room = room_under(view, knobs.max_requests)
    if not knobs.exclusive:
        budget, free = serve_in_order(view, out, knobs.token_budget, view.free)
        return admit_in_order(view, out, room, NO_LIMIT, budget, free), float("inf")
    wanted = 0 if view.evicted > 0 and len(view.resident) > 0 else memory[0]
    running, ready = len(view.resident), max(min(len(view.waiting), room), 0)
    if wanted == 0 and ready > 0 and ready * (1 - knobs.threshold) >= running * knobs.threshold:
        wanted = ready
    if wanted > 0 or half_prefilled(view) > 0:
        budget = go_on_with_prefills(view, out, knobs.token_budget)
        admitted = admit_in_order(view, out, min(wanted, room), NO_LIMIT, budget, view.free)
        if admitted > 0 or budget < knobs.token_budget:
            for i in range(admitted):
                budget -= out.chunk[i]
            memory[0] = wanted - admitted if budget == 0 else 0  # else memory, or the queue, has no more
            return admitted, float("inf")
    decodes, _ = decode_all(view, out)
    if decodes > 0:
        memory[0] = 0
    return 0, float("inf")
