"""WAIT with chunked prefill: the form the paper runs in its experiments (its section on implementation).

At most ``in_service`` requests are in service. Decode progress is cut into segments; from the length law follow a flow
and an entry quota per batch and a cap B_k per segment. A batch holds one token for every decode of a served segment, up
to ``chunk`` tokens for every running prefill, and new admissions up to the entry quota, the room in segment 1 and the
room under ``in_service``. Fractional quotas are met by the most even integer sequence. ``batch_tokens`` bounds the
tokens of a batch: prefills share what the decodes leave.

``quotas`` says how the numbers follow from the law. ``mean_life``, the default: the flow is the number in service over
the mean output, and quotas, caps and the fluid batch have room for the spread of the lengths
(:mod:`fluidwait.fluid.lives`). ``paper``: the paper's n_k and B_k (:func:`fluidwait.fluid.segments.design`), flow and
quota alike. They count every request to the end of its segment and have no room, so with random lengths they let in too
few: with one segment, the fewer the farther the longest output is from the mean. With equal lengths both are the same.

The gate: a segment is served when it is full or when its entry queue holds the flow of a batch; ``gate: false`` is the
paper's threshold-only ablation, in which quotas and caps hold all the same. Requests in prefill belong to segment 1.
Liveness as in :mod:`fluidwait.policies.nested_wait`, except that segments open independently.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from fluidwait.fluid.calibrated import LifeSums, calibrated_boundary, calibrated_equilibrium, life_sums
from fluidwait.fluid.lives import batch_room, cheapest_batch, life_design
from fluidwait.fluid.segments import design
from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    EngineSize,
    Limits,
    Needs,
    PolicySettings,
    admit_in_order,
    even_quota,
    growth,
    is_decoding,
    jit,
    lowered,
    patience_ends,
    wants_fluid,
)
from fluidwait.policies.nested_wait import covering, segment_boundaries, segment_of


class Settings(PolicySettings):
    in_service: PositiveInt | Literal["fluid"] = Field(
        "fluid", description="requests in service at most (the paper's tl); 'fluid': those at the stability boundary"
    )
    chunk: int = Field(256, gt=0, description="prefill tokens per request and batch (the paper's cs)")
    boundaries: list[int] | None = Field(None, description="output lengths r_1 < ... < r_L that end the segments")
    segments: int | None = Field(None, gt=0, description="number of equally likely segments, instead of boundaries")
    batch_tokens: PositiveInt | Literal["fluid"] | None = Field(
        None, description="tokens of a batch that prefills may fill up to; 'fluid': see slack"
    )
    slack: float = Field(0.05, ge=0, lt=1, description="share of the stability boundary given up for a smaller batch")
    margin: float = Field(0.05, ge=0, description="added to every continuation probability (the paper's eta)")
    quotas: Literal["mean_life", "paper"] = Field(
        "mean_life",
        description="quotas and caps from the mean life of a request, with room for random lengths, or the paper's own",
    )
    gate: bool = Field(True, description="wait for a full segment or a full entry quota; both hold without it too")
    max_wait: float = Field(0.02, ge=0, description="s that the gate may hold a request in all")


class Knobs(NamedTuple):
    in_service: int
    chunk: int  # tokens
    batch_tokens: int  # tokens
    boundaries: np.ndarray  # int64[L], output tokens
    caps: np.ndarray  # int64[L], requests
    flow: np.ndarray  # float64[L], requests per batch that open the gate
    quota: np.ndarray  # float64[L], requests per batch that may enter
    gate: bool
    max_wait: float  # s


def prepare(settings: Settings, context: Context) -> Knobs:
    """Segments, caps and quotas from the length law; 'fluid': calibrated fluid model."""
    cuts = segment_boundaries(settings, context.law)
    in_service, batch_tokens = fluid_batch(settings, context)
    if settings.quotas == "paper":
        paper = design(context.law, cuts, in_service, settings.margin)
        caps, flow, quota = paper.caps, paper.per_stage, paper.per_stage
    else:
        prefills = _mean_life(settings, context).prefills
        life = life_design(context.law, cuts, in_service, settings.margin, prefills)
        caps, flow, quota = life.caps, life.flow, life.quota
        if settings.in_service == "fluid":
            in_service = life.highest
    return Knobs(
        in_service,
        settings.chunk,
        batch_tokens,
        cuts,
        np.minimum(caps, in_service).astype(np.int64),
        flow.astype(np.float64),
        quota.astype(np.float64),
        settings.gate,
        settings.max_wait,
    )


def fluid_batch(settings: Settings, context: Context) -> tuple[int, int]:
    """(in_service, batch_tokens): what the settings say, or the batch of the calibrated fluid model.

    The fluid batch does not depend on the rate: at the stability boundary it gives the requests in service, and the
    least batch that carries all but ``slack`` of the boundary's rate gives the tokens (past that, a larger batch buys
    little throughput and costs everybody latency). Both are means. Batches of random lengths spread about theirs, so
    with quotas from the mean life it is the size, within that room, at which prefill tokens cost least.
    """
    shape: dict[str, Any] = {
        "capacity": context.capacity,
        "chunk": settings.chunk,
        "semantics": context.semantics,
    }
    tokens, in_service = settings.batch_tokens, settings.in_service
    if tokens != "fluid" and in_service != "fluid":
        return in_service, tokens or NO_LIMIT
    boundary = calibrated_boundary(context.law, context.time_model, **shape)
    residents = max(int(np.ceil(boundary.in_service)), settings.segments or 1) if in_service == "fluid" else in_service
    if tokens == "fluid":
        rate = boundary.rate * (1 - settings.slack)
        batch = calibrated_equilibrium(context.law, rate, context.time_model, **shape)
        tokens = int(np.ceil(batch.tokens))
        if settings.quotas == "mean_life":
            room = batch_room(context.law, batch.requests, settings.chunk, context.semantics)
            decodes = batch.requests * _mean_life(settings, context).decodes
            tokens = cheapest_batch(context.time_model, decodes, tokens, int(tokens + room))
    return residents, tokens or NO_LIMIT


def _mean_life(settings: Settings, context: Context) -> LifeSums[float]:
    """Sums over the life of a request, on average."""
    sums = life_sums(context.law, settings.chunk, context.semantics)
    return LifeSums._make(float(context.law.share @ column) for column in sums)


def needs(settings: Settings) -> Needs:
    """Never the rate. The lengths decide caps and quotas, but for those of one segment with a given end."""
    fluid, cuts = wants_fluid(settings), settings.boundaries or []
    return Needs(any_output=cuts[0] if len(cuts) == 1 and not fluid else None, times=fluid, rate=False)


def within(settings: Settings, size: EngineSize, law) -> Settings:
    """Whole prompts where the engine wants them, and boundaries that reach the longest output seen."""
    if not size.chunked_prefill:
        settings = settings.model_copy(update={"chunk": size.longest, "batch_tokens": None})
    return covering(settings, int(law.output.max())) if settings.boundaries else settings


def fills_batches(settings: Settings) -> bool:
    """A backlog does."""
    return True


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, in_service=most.requests, batch_tokens=most.tokens)


def limits(knobs: Knobs) -> Limits:
    """Requests in service, tokens of a batch, and of a prefill chunk."""
    return Limits(knobs.in_service, knobs.batch_tokens, knobs.chunk)


def thresholds(knobs: Knobs) -> np.ndarray:
    """The cap per segment."""
    return knobs.caps


def memory_size(knobs: Knobs) -> int:
    """Per segment: batches served so far, requests inside, requests in the entry queue, open or not."""
    return 4 * len(knobs.caps)


def queue_depth(knobs: Knobs) -> int:
    """Waiting requests, from the head of the queue, that can change a plan: one more than may enter."""
    return int(np.ceil(knobs.quota[0])) + 1


@jit
def plan(view, knobs, memory, out):
    segments = len(knobs.caps)
    steps, inside = memory[:segments], memory[segments : 2 * segments]
    entry, is_open = memory[2 * segments : 3 * segments], memory[3 * segments :]
    wake = _find_open(view, knobs, steps, inside, entry, is_open)
    free, budget, served = view.free, knobs.batch_tokens, 0
    for s in range(1, segments):  # from here on: how many may enter
        entry[s] = min(_quota(knobs.quota, steps, inside, s), max(0, knobs.caps[s] - inside[s]))
    for k in range(len(view.resident)):
        r = view.resident[k]
        s = segment_of(knobs.boundaries, view.generated[r])
        if is_open[s] == 0 or not is_decoding(view, r):
            continue
        if s > 0 and view.generated[r] == knobs.boundaries[s - 1]:
            if entry[s] == 0:
                continue
            entry[s] -= 1
        out.tokens[k] = 1
        budget -= 1
        served += 1
        free -= growth(view, r)
    for k in range(len(view.resident)):
        r = view.resident[k]
        if budget > 0 and not is_decoding(view, r) and is_open[segment_of(knobs.boundaries, view.generated[r])] == 1:
            out.tokens[k] = min(knobs.chunk, view.goal[r] - view.cached[r], budget)
            budget -= out.tokens[k]
            served += 1
    admitted = 0
    if is_open[0] == 1:
        room = min(knobs.caps[0] - inside[0], knobs.in_service - len(view.resident))
        room = min(room, _quota(knobs.quota, steps, inside, 0))
        admitted = admit_in_order(view, out, room, knobs.chunk, budget, free)
    if served + admitted > 0:
        for s in range(segments):
            steps[s] += is_open[s]
    return admitted, wake


@jit
def _quota(per_batch, steps, inside, s):
    """The share of this batch in ``per_batch`` of segment ``s``: at least one if it is empty, or nothing would move."""
    quota = even_quota(steps[s], per_batch[s])
    return max(quota, 1) if inside[s] == 0 else quota


@jit
def _find_open(view, knobs, steps, inside, entry, is_open):
    """Set ``is_open`` per segment; return the time at which the next held request loses its patience."""
    inside[:] = 0
    entry[:] = 0
    is_open[:] = 0
    wake = np.inf
    entry[0] = len(view.waiting)
    if len(view.waiting) > 0:
        wake = _check_patience(view, view.waiting[0], knobs, is_open, 0)
    for k in range(len(view.resident)):
        r = view.resident[k]
        s = segment_of(knobs.boundaries, view.generated[r])
        if s > 0 and view.generated[r] == knobs.boundaries[s - 1]:
            entry[s] += 1
        else:
            inside[s] += 1
        wake = min(wake, _check_patience(view, r, knobs, is_open, s))
    for s in range(len(is_open)):
        if inside[s] >= knobs.caps[s] or entry[s] >= _quota(knobs.flow, steps, inside, s):
            is_open[s] = 1
        if inside[s] + entry[s] == 0:
            is_open[s] = 0
    return wake


@jit
def _check_patience(view, r, knobs, is_open, s):
    ends = patience_ends(view, r, knobs.max_wait)
    if not knobs.gate or view.draining or view.now >= ends:
        is_open[s] = 1
        return np.inf
    return ends
