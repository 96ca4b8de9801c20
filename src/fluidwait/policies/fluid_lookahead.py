"""Look-ahead on memory, completed by the flow of the fluid model, in batches whose tokens are worth most."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.fluid.backlog import worth
from fluidwait.fluid.calibrated import mean_sums
from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    EngineSize,
    Limits,
    Needs,
    PolicySettings,
    admit_in_order,
    blocks_for,
    growth,
    is_decoding,
    jit,
    lowered,
    serve_in_order,
    to_prefill,
)

ENDS = 8
"""Equally likely ends by which an output that is not known counts."""

AGES = 128
"""Rows of the table of ends, by the tokens generated so far."""

STEPS = 128
"""Steps of the look-ahead."""

LEAST_PREFILL = 16
"""Prompt tokens of a batch at least, as the look-ahead counts them."""

AGE, FULL, TABLE = 0, 1, 2
"""Where the memory keeps: iterations since the forecast was made, or 0; KV blocks if everybody ran to the longest
output; the forecast."""


class Settings(PolicySettings):
    share: float = Field(0.9, gt=0, le=1, description="of the flow that fills the memory")
    spread: float = Field(1.0,  description="standard deviations of the memory")
    token_budget: int | None = Field(None, gt=0)
    max_requests: int | None = Field(None, gt=0)
    known: bool = False
    look: bool = True
    delays: float = 1.0


class Knobs(NamedTuple):
    sizes: np.ndarray
    seconds: np.ndarray
    prompt_token: np.ndarray
    decode_token: np.ndarray
    prompt: float  # mean tokens
    token_budget: int
    max_requests: int
    horizon: int  # iterations per step of the look-ahead
    flow: np.ndarray  # float64[STEPS + 1], KV tokens at the end of each step
    age: int  # tokens per row of ends
    ends: np.ndarray  # int64[AGES, ENDS]
    longest: int
    capacity: int  # blocks
    spread: float
    look: bool
    delays: float


def prepare(settings: Settings, context: Context) -> Knobs:
    law = context.law
    budget, cap = settings.token_budget or NO_LIMIT, settings.max_requests or NO_LIMIT
    capacity = float(context.capacity)
    found = worth(law, context.time_model, capacity * 0.99, context.rate, cap=float(cap), budget=float(min(budget, 2**20)))
    longest = int(law.output.max())
    step = -(-longest // (STEPS - 4))
    age = -(-longest // AGES)
    return Knobs(*found, mean_sums(law).prefill_tokens, budget, cap, step, _flow(settings.share, law, capacity, step), age,
                 _ends(law.output, law.share, age), longest, context.capacity, settings.spread, settings.look, settings.delays)


def _flow(share, law, capacity, step):
    """KV tokens of those that come in from now on, float64[STEPS + 1]."""
    longest = int(law.output.max())
    ending = np.bincount(law.output.astype(int), law.share, longest + 1)
    prompts = np.bincount(law.output.astype(int), law.share * law.prompt, longest + 1)
    alive, held = (np.cumsum(part[::-1])[::-1] for part in (ending, prompts))
    age = np.arange(longest + 1)
    kv = held + (age + 7.5) * alive
    filled = np.concatenate([[0.0], np.cumsum(kv[1:])])
    at = np.minimum(np.arange(STEPS + 1) * step, longest)
    return share * capacity * filled[at] / filled[-1]


def _ends(output, share, age):
    """int64[AGES, ENDS]: mean ends of equal parts of the outputs beyond those generated."""
    order = np.argsort(output)
    output, share = output[order], share[order]
    rows = np.empty((AGES, ENDS))
    for row in range(AGES):
        beyond = output > row * age
        if not beyond.any():
            rows[row:] = output[-1]
            break
        mass = np.concatenate([[0.0], np.cumsum(share[beyond])])
        total = np.concatenate([[0.0], np.cumsum(share[beyond] * output[beyond])])
        cuts = np.interp(np.linspace(0, mass[-1], ENDS + 1), mass, total)
        rows[row] = np.diff(cuts) * ENDS / mass[-1]
    return np.rint(rows).astype(np.int64)


def needs(settings: Settings) -> Needs:
    return Needs(load=True)


def memory_size(knobs: Knobs) -> int:
    """The forecast and its age."""
    return TABLE + 5 * (STEPS + 1)


def limits(knobs: Knobs) -> Limits:
    return Limits(knobs.max_requests, min(int(knobs.sizes[-1]), knobs.token_budget))


@jit
def plan(view, knobs, memory, out):
    residents = len(view.resident)
    decodes, left, free = 0, 0, view.free
    for k in range(residents):
        r = view.resident[k]
        if is_decoding(view, r):
            decodes += 1
            free -= growth(view, r)
        else:
            left += view.goal[r] - view.cached[r]
    most = 0
    if view.evicted > 0 or memory[AGE] > knobs.horizon:
        memory[AGE] = 0
    if len(view.waiting) > 0 and (view.evicted == 0 or residents == 0):
        most = _enter(view, knobs, memory, decodes, left, free)
    prompts = left
    for i in range(most):
        prompts += to_prefill(view, view.waiting[i])
    tokens = _best_size(knobs, len(view.waiting) + int(np.ceil(left / knobs.prompt)), decodes, prompts)
    budget, free = serve_in_order(view, out, max(tokens, residents), view.free)
    if memory[AGE] > 0:
        memory[AGE] += 1
    return admit_in_order(view, out, most, NO_LIMIT, budget, free), float("inf")


@jit
def _best_size(knobs, n, decodes, prompts):
    n = min(n, len(knobs.prompt_token) - 1)
    prompt_token, decode_token = knobs.prompt_token[n], knobs.decode_token[n]
    best, tokens = -1.0, knobs.sizes[-1]
    for i in range(len(knobs.sizes)):
        size = knobs.sizes[i]
        if size <= decodes and i < len(knobs.sizes) - 1:
            continue
        p = min(max(size - decodes, 0), prompts)
        value = (p * prompt_token + decodes * decode_token) / knobs.seconds[i]
        if value > best:
            best, tokens = value, size
        if size - decodes >= prompts:
            break
    return tokens


@jit
def _enter(view, knobs, memory, decodes, left, free):
    """How many may enter."""
    residents = len(view.resident)
    most = min(len(view.waiting), knobs.max_requests - residents)
    block = view.block_size
    total = knobs.capacity // block
    per_batch = max(knobs.sizes[-1] - decodes, LEAST_PREFILL)
    prompts = 0
    if memory[AGE] == 0:
        memory[AGE] = 1
        memory[FULL:] = 0
        first = 0
    else:
        first = residents
    entered = 0
    for i in range(first, residents + most):
        is_new = i >= residents
        r = view.waiting[i - residents] if is_new else view.resident[i]
        needed = blocks_for(view.goal[r], block)
        if is_new and (left >= per_batch or free - needed < view.watermark):
            break
        prompts = max(view.goal[r] - view.cached[r], 0)
        left += prompts if is_new else 0
        memory[FULL] += blocks_for(max(view.goal[r], view.cached[r]) + max(knobs.longest - view.generated[r], 1), block)
        _add(view, knobs, memory, r, int(knobs.delays * (left if is_new else prompts) / per_batch))
        if is_new:
            if memory[FULL] > total - view.watermark and i > 0 and knobs.look:
                if not _holds(knobs, memory, (total - view.watermark) * block):
                    memory[AGE] = 0
                    break
            free -= needed
            entered += 1
    return entered


@jit
def _add(view, knobs, memory, r, delay):
    """Add the request to the forecast: tokens it holds in each step, by its equally likely ends."""
    n = STEPS + 1
    held = max(view.goal[r], view.cached[r]) + view.block_size // 2
    generated = view.generated[r]
    row = min(generated // knobs.age, AGES - 1)
    memory[TABLE] += ENDS * held
    memory[TABLE + n] += ENDS
    for k in range(ENDS):
        remain = max(knobs.ends[row, k] - generated, 1) + delay
        j = TABLE + min(remain // knobs.horizon + 1, STEPS)
        d = ENDS - 1 - 2 * k  # of k (ENDS - k), ends passed and ends to come, with one more passed
        memory[j] -= held
        memory[n + j] -= 1
        memory[2 * n + j] += d * held * held
        memory[3 * n + j] += d * held
        memory[4 * n + j] += d


@jit
def _holds(knobs, memory, capacity):
    n = STEPS + 1
    const, slope, vc, vb, va = 0, 0, 0, 0, 0
    for j in range(STEPS):
        const += memory[TABLE + j]
        slope += memory[TABLE + n + j]
        vc += memory[TABLE + 2 * n + j]
        vb += memory[TABLE + 3 * n + j]
        va += memory[TABLE + 4 * n + j]
        h = (j + 1) * knobs.horizon
        room = capacity - knobs.flow[j + 1] - (const + slope * h) / ENDS
        variance = max((vc + (2.0 * vb + 1.0 * va * h) * h), 0.0) / (ENDS * ENDS)
        if room < knobs.spread * np.sqrt(variance):
            return False
    return True
