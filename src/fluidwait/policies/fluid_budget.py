"""vLLM's own rule with two numbers of ours: the tokens of a batch, and the KV memory that admissions leave free.

First come, first served, nobody is held: running requests in admission order share ``batch_tokens``, admissions take
what is left, as in :mod:`fluidwait.policies.vllm_v1`. A batch larger than the load needs costs everybody latency, and a
little free memory saves the evictions that admissions cause later.

'fluid' is the least batch whose full batches carry ``headroom`` times the load by the calibrated fluid model, or as
much as those of any other size, to within ``ERROR``. Sizes are the ends of tiles of the device's compute time, at least
``least_tokens``, and ``token_budget``, the largest.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import Field, PositiveInt

from fluidwait.device.tiles import end_of_tile
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    EngineSize,
    Limits,
    Needs,
    PolicySettings,
    admit_in_order,
    jit,
    lowered,
    room_under,
    serve_in_order,
    wants_fluid,
)

ERROR = 0.01
"""Share of the predicted rate that is no reason for a larger batch: the prediction is no better than that."""


class Settings(PolicySettings):
    batch_tokens: PositiveInt | Literal["fluid"] = Field(
        "fluid", description="tokens of a batch; 'fluid': from the calibrated fluid model"
    )
    headroom: float = Field(1.1, ge=1, description="times the load that a fluid batch carries: traffic comes unevenly")
    least_tokens: int = Field(256, gt=0, description="tokens of a fluid batch at least")
    watermark: float = Field(0.05, ge=0, lt=1, description="share of the KV memory that admissions leave free")
    token_budget: int = Field(2048, gt=0, description="tokens per batch at most (max_num_batched_tokens)")
    max_requests: int = Field(256, gt=0, description="requests in service at most (max_num_seqs)")


class Knobs(NamedTuple):
    batch_tokens: int
    spare: int  # KV tokens that admissions leave free while anything runs
    max_requests: int


def prepare(settings: Settings, context: Context) -> Knobs:
    """The numbers in the settings, or those of the calibrated fluid model."""
    tokens = settings.batch_tokens
    if tokens == "fluid":
        tokens = _fluid_tokens(settings, context)
    return Knobs(min(tokens, settings.token_budget), int(settings.watermark * context.capacity), settings.max_requests)


def _fluid_tokens(settings: Settings, context: Context) -> int:
    sizes, most = [], settings.token_budget
    tokens = end_of_tile(settings.least_tokens)
    while tokens < most:
        sizes.append(tokens)
        tokens = end_of_tile(tokens + 1)
    sizes.append(most)
    options: dict[str, Any] = {"semantics": context.semantics, "cap": settings.max_requests}
    carried = [
        calibrated_boundary(
            context.law, context.time_model, context.capacity, token_budget=size, **options
        ).saturated_rate
        for size in sizes
    ]
    needed = min(settings.headroom * context.rate, (1 - ERROR) * max(carried))
    return next(size for size, rate in zip(sizes, carried, strict=True) if rate >= needed)


def needs(settings: Settings) -> Needs:
    """Everything for the fluid batch, which changes with the load; nothing when it is given in tokens."""
    fluid = wants_fluid(settings)
    return Needs(any_output=None if fluid else 1, times=fluid, rate=fluid, load=fluid)


def within(settings: Settings, size: EngineSize, law) -> Settings:
    """The engine's own limits, or what the user says below them."""
    own = {"token_budget": size.tokens, "max_requests": size.requests}
    own = {
        key: min(most, getattr(settings, key) if key in settings.model_fields_set else most)
        for key, most in own.items()
    }
    if not size.chunked_prefill:  # a smaller batch would have no room for some prompts
        own["batch_tokens"] = size.tokens
    return settings.model_copy(update=own)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, batch_tokens=most.tokens)


def limits(knobs: Knobs) -> Limits:
    """Tokens of a batch and requests in service; the memory that is left free is none of these."""
    return Limits(knobs.max_requests, knobs.batch_tokens)


def engine_limits(knobs: Knobs, block_size: int) -> tuple[int, int]:
    """Tokens of a batch and KV blocks that admissions leave free: all in which vLLM's own scheduler differs."""
    return knobs.batch_tokens, knobs.spare // block_size


@jit
def plan(view, knobs, memory, out):
    residents = len(view.resident)
    tokens = max(knobs.batch_tokens, residents)  # no decode waits for tokens
    budget, free = serve_in_order(view, out, tokens, view.free)
    room = room_under(view, knobs.max_requests)
    spare = max(knobs.spare // view.block_size - view.watermark, 0)
    admitted = admit_in_order(view, out, room, NO_LIMIT, budget, free - spare)
    if admitted == 0 and residents == 0:  # what fits only an empty engine gets in
        admitted = admit_in_order(view, out, min(room, 1), NO_LIMIT, budget, free)
    return admitted, float("inf")
