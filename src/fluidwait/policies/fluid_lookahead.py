"""The fluid model's look-ahead: who may enter, and how many tokens a batch takes.

First come, first served, and everybody in service is served. The head of the queue enters if its prompt fits and, in
every iteration to come, memory holds all that is expected of it: those in service, those who enter now, and the fluid
model's flow of those who will enter meanwhile, at ``share`` of the rate at which memory is full
(:mod:`fluidwait.fluid.forecast`). Without the flow the rule would let a crowd in that later ends as a crowd. With it,
requests of equal lengths enter evenly, and those of random lengths almost as they come.

A request counts with its predicted output where predictions are exact; else with eight equally likely ends, by its
prediction, if there is one, and the tokens that it has generated. Then the sum may exceed memory by ``overcommit``
standard deviations: an eviction costs a prompt computed again, empty memory costs everybody who waits. Whoever would
fit with the longest outputs of all reserved enters anyhow.

Of all batch sizes that end a stair of the compute time, a batch takes the one whose tokens are worth most per second
while so many wait (:mod:`fluidwait.fluid.backlog`). docs/fluid-lookahead.md has the derivation.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from fluidwait.fluid.backlog import worth
from fluidwait.fluid.calibrated import mean_sums
from fluidwait.fluid.forecast import flow_tokens, output_ends, predicted_classes
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
"""Rows of a table of ends, by the tokens generated so far."""

STEPS = 128
"""Steps of the look-ahead, a little more than the longest output in all."""

LEAST_PREFILL = 16
"""Prompt tokens of a batch at least, by which the look-ahead counts the iterations of a prefill."""

WATERMARK = 0.01
"""Share of the memory that admissions leave free; the fluid model fills the rest."""

BLOCK = 16
"""Tokens of a KV block in the flow, whose half is a small part of a request."""

CLOCK, RESERVED, TABLE = 0, 1, 2
"""What the memory keeps: iterations since the forecast was made, plus 1, or 0 without one; the KV blocks of everybody
in it at the longest output; the forecast, five columns of STEPS + 1 numbers."""


class Settings(PolicySettings):
    share: float = Field(0.9, gt=0, le=1, description="of the fluid flow that fills memory, kept free for who comes")
    overcommit: float = Field(2.0, description="standard deviations by which a forecast may exceed the memory")
    batch_tokens: PositiveInt | Literal["fluid"] = Field(
        "fluid", description="tokens of a batch; 'fluid': what is worth most while so many wait"
    )
    token_budget: PositiveInt | None = Field(None, description="tokens per batch at most (max_num_batched_tokens)")
    max_requests: PositiveInt | None = Field(None, description="requests in service at most (max_num_seqs)")


class Knobs(NamedTuple):
    sizes: np.ndarray  # int64[K], tokens of a batch
    seconds: np.ndarray  # float64[K], of such a batch
    prompt_token: np.ndarray  # float64[N + 1], s that it is worth, by the requests whose prompts are not computed
    decode_token: np.ndarray  # float64[N + 1], s
    mean_prompt: float  # tokens
    max_requests: int
    step: int  # iterations of a step of the look-ahead
    flow: np.ndarray  # float64[STEPS + 1], KV tokens of those who come in, at the end of each step
    exact: bool  # predictions are the outputs
    classes: np.ndarray  # float64[C], least predicted tokens of each class
    age: int  # generated tokens of a row of ends
    ends: np.ndarray  # int64[(1 + C) AGES, ENDS], tokens: of all outputs, then by classes
    longest: int  # tokens of output
    capacity: int  # KV tokens
    overcommit: float


def prepare(settings: Settings, context: Context) -> Knobs:
    """The worth of tokens, the flow and the ends of outputs, from the length law, the rate and the iteration times.

    Raises:
        ConfigError: no batch of this workload is in balance (see :mod:`fluidwait.fluid.calibrated`).
    """
    law, longest = context.law, int(context.law.output.max())
    usable = (1.0 - WATERMARK) * context.capacity
    most = (settings.token_budget or NO_LIMIT, settings.max_requests or NO_LIMIT)
    found = worth(
        law,
        context.time_model,
        usable,
        context.rate,
        semantics=context.semantics,
        cap=_limit(most[1]),
        budget=_limit(most[0]),
    )
    if settings.batch_tokens != "fluid":
        found = found._replace(sizes=np.array([min(settings.batch_tokens, most[0])]), seconds=np.ones(1))
    step, age = -(-longest // (STEPS - 4)), -(-longest // AGES)
    ages = np.arange(AGES) * age
    classes, laws = np.zeros(0), [law.share]
    if context.prediction_error:
        classes, posterior = predicted_classes(law, context.prediction_error)
        laws += list(posterior)
    return Knobs(
        *found,
        max(mean_sums(law, semantics=context.semantics).prefill_tokens, 1.0),
        most[1],
        step,
        settings.share * flow_tokens(law, context.capacity, BLOCK, np.arange(STEPS + 1) * step),
        context.prediction_error == 0,
        classes,
        age,
        np.concatenate([output_ends(law.output, share, ages, ENDS) for share in laws]),
        longest,
        context.capacity,
        settings.overcommit,
    )


def _limit(number: int) -> float:
    return float(number) if number < NO_LIMIT else np.inf


def needs(settings: Settings) -> Needs:
    """Everything, and anew when the load changes: the worth of tokens depends on it."""
    return Needs(load=True)


def within(settings: Settings, size: EngineSize, law) -> Settings:
    """The engine's own limits, or what the user says below them."""
    own = {
        "token_budget": min(settings.token_budget or size.tokens, size.tokens),
        "max_requests": min(settings.max_requests or size.requests, size.requests),
    }
    if not size.chunked_prefill:  # a smaller batch would have no room for some prompts
        return settings.model_copy(update={**own, "batch_tokens": size.tokens})
    return settings.model_copy(update=own)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


def limits(knobs: Knobs) -> Limits:
    """Requests in service, and the largest batch that it takes."""
    return Limits(knobs.max_requests, int(knobs.sizes[-1]))


def memory_size(knobs: Knobs) -> int:
    """The forecast, its age, and what it would take to reserve everything."""
    return TABLE + 5 * (STEPS + 1)


def queue_depth(knobs: Knobs) -> int:
    """The number of those who wait counts as far as the worth of tokens depends on it, and a batch holds so many."""
    return int(max(len(knobs.prompt_token), knobs.sizes[-1])) + 1


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
    if view.evicted > 0 or memory[CLOCK] > knobs.step:
        memory[CLOCK] = 0
    entering = 0
    if len(view.waiting) > 0 and (view.evicted == 0 or residents == 0):
        entering = _entering(view, knobs, memory, decodes, left, free)
    prompts = left
    for i in range(entering):
        prompts += to_prefill(view, view.waiting[i])
    uncomputed = len(view.waiting) + int(np.ceil(left / knobs.mean_prompt))
    tokens = max(_worth_most(knobs, uncomputed, decodes, prompts), residents)  # no decode waits for tokens
    budget, free = serve_in_order(view, out, tokens, view.free)
    admitted = admit_in_order(view, out, entering, NO_LIMIT, budget, free)
    if admitted < entering:  # the forecast holds some who did not enter
        memory[CLOCK] = 0
    elif memory[CLOCK] > 0:
        memory[CLOCK] += 1
    return admitted, np.inf


@jit
def _worth_most(knobs, uncomputed, decodes, prompts):
    """The batch size whose tokens are worth most per second."""
    n = min(uncomputed, len(knobs.prompt_token) - 1)
    largest = len(knobs.sizes) - 1
    best, tokens = -1.0, knobs.sizes[largest]
    for i in range(largest + 1):
        size = knobs.sizes[i]
        if size <= decodes and i < largest:
            continue
        computed = min(max(size - decodes, 0), prompts)
        value = (computed * knobs.prompt_token[n] + decodes * knobs.decode_token[n]) / knobs.seconds[i]
        if value > best:
            best, tokens = value, size
        if size - decodes >= prompts:
            break
    return tokens


@jit
def _entering(view, knobs, memory, decodes, left, free):
    """How many may enter: as many as a batch takes in, while the forecast holds."""
    residents = len(view.resident)
    per_batch = max(knobs.sizes[-1] - decodes, LEAST_PREFILL)
    blocks, entering = knobs.capacity // view.block_size, 0
    limit = blocks * view.block_size
    first = residents
    if memory[CLOCK] == 0:
        first = 0
        memory[RESERVED:] = 0
        memory[CLOCK] = 1
    for i in range(first, residents + min(len(view.waiting), knobs.max_requests - residents)):
        is_new = i >= residents
        r = view.waiting[i - residents] if is_new else view.resident[i]
        needed = blocks_for(view.goal[r], view.block_size)
        if is_new and (left >= per_batch or free - needed < view.watermark):
            break
        prompt = max(view.goal[r] - view.cached[r], 0)
        left += prompt if is_new else 0
        _expect(view, knobs, memory, r, (left if is_new else prompt) // per_batch)
        if is_new:
            if i > 0 and memory[RESERVED] > blocks - view.watermark and not _holds(knobs, memory, limit):
                memory[CLOCK] = 0
                break
            free -= needed
            entering += 1
    return entering


@jit
def _expect(view, knobs, memory, r, prefills):
    """Add a request to the forecast that is in prefill for so many iterations.

    Columns: of tokens held, of requests, and of both times the variance p (1 - p) of being there; all in changes from
    step to step, p in parts of ENDS.
    """
    n, generated = STEPS + 1, view.generated[r]
    held, longest, parts = max(view.goal[r], view.cached[r]), knobs.longest, ENDS
    row, rounding = min(generated // knobs.age, AGES - 1), view.block_size // 2
    if view.predicted[r] > 0:
        if knobs.exact:
            parts, longest = 1, view.predicted[r]
        for c in range(len(knobs.classes)):
            row += AGES if view.predicted[r] >= knobs.classes[c] else 0
    memory[RESERVED] += blocks_for(held + max(longest - generated, 1), view.block_size)
    held += rounding
    memory[TABLE] += ENDS * held
    memory[TABLE + n] += ENDS
    for k in range(parts):
        end = longest if parts == 1 else knobs.ends[row, k]
        j = TABLE + min((max(end - generated, 1) + prefills) // knobs.step + 1, STEPS)
        memory[j] -= ENDS // parts * held
        memory[n + j] -= ENDS // parts
        change = 0 if parts == 1 else ENDS - 1 - 2 * k  # of k (ENDS - k), when k parts have ended
        memory[2 * n + j] += change * held * held
        memory[3 * n + j] += change * held
        memory[4 * n + j] += change


@jit
def _holds(knobs, memory, limit):
    """Whether the forecast stays within ``limit`` (KV tokens) in every step; everybody there grows to its end."""
    n = STEPS + 1
    held, there, held_squares, held_there, there_squares = 0, 0, 0, 0, 0
    for j in range(STEPS):
        held += memory[TABLE + j]
        there += memory[TABLE + n + j]
        held_squares += memory[TABLE + 2 * n + j]
        held_there += memory[TABLE + 3 * n + j]
        there_squares += memory[TABLE + 4 * n + j]
        h = (j + 1) * knobs.step
        room = limit - knobs.flow[j + 1] - (held + there * h) / ENDS
        variance = held_squares + (2.0 * held_there + there_squares * h) * h
        if room < 0 and room < -knobs.overcommit * np.sqrt(max(variance, 0.0)) / ENDS:
            return False
    return True
