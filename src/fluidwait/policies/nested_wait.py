"""Nested WAIT, Algorithm 2 of the paper: output lengths unknown, one threshold per segment of decode progress.

Segment 1 covers the prefill and outputs up to r_1; segment k >= 2 starts at its boundary queue, the residents that
have generated exactly r_{k-1} tokens. The batch serves segments 1..k for the largest k such that every entry queue up
to k holds its threshold, and takes min(n, count) requests from every stage of them; later segments pause.

Liveness beyond the paper: a request held outside batches for ``max_wait`` makes its segment and all before it
eligible; when arrivals end, all segments are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.segments import equal_mass_boundaries, nested_thresholds
from fluidwait.policies.contract import (
    NO_LIMIT,
    Context,
    EngineSize,
    Needs,
    PolicySettings,
    admit_in_order,
    growth,
    jit,
    patience_ends,
    wants_fluid,
)


class Settings(PolicySettings):
    boundaries: list[int] | None = Field(None, description="output lengths r_1 < ... < r_L that end the segments")
    segments: int | None = Field(None, gt=0, description="number of equally likely segments, instead of boundaries")
    thresholds: list[int] | Literal["fluid"] = Field("fluid", description="n_k per segment, or 'fluid'")
    max_wait: float = Field(float("inf"), ge=0, description="s that a request may be held in all")


class Knobs(NamedTuple):
    boundaries: np.ndarray  # int64[L], output tokens
    thresholds: np.ndarray  # int64[L]
    max_wait: float  # s


def segment_boundaries(settings, law) -> np.ndarray:
    """The cut points that the settings ask for, as int64[L], the last at or past the longest output.

    Raises:
        ConfigError: they do not increase, or end before the longest output.
    """
    if settings.boundaries is None:
        return np.asarray(equal_mass_boundaries(law, settings.segments or 1), dtype=np.int64)
    cuts = np.array(settings.boundaries, dtype=np.int64)
    if len(cuts) == 0 or cuts[0] < 1 or np.any(np.diff(cuts) < 1):
        raise ConfigError(f"boundaries: must be increasing whole numbers >= 1, found {settings.boundaries}")
    if cuts[-1] < law.output.max():
        raise ConfigError(
            f"boundaries: the last is {cuts[-1]} but the longest output is {int(law.output.max())} tokens "
            f"(nearest valid last boundary: {int(law.output.max())})"
        )
    return cuts


def prepare(settings: Settings, context: Context) -> Knobs:
    """Boundaries and thresholds from the settings or from the fluid model (:mod:`fluidwait.fluid.segments`)."""
    cuts = segment_boundaries(settings, context.law)
    if settings.thresholds == "fluid":
        d0, d1 = context.linear
        thresholds = nested_thresholds(context.law, context.rate, cuts, d0, d1, context.capacity).n
    else:
        thresholds = np.array(settings.thresholds, dtype=np.int64)
        if len(thresholds) != len(cuts) or thresholds.min() < 1:
            raise ConfigError(f"thresholds: need {len(cuts)} whole numbers >= 1, found {settings.thresholds}")
    return Knobs(cuts, thresholds.astype(np.int64), settings.max_wait)


def needs(settings: Settings) -> Needs:
    """Nothing, when boundaries and thresholds are given."""
    fluid, cuts = wants_fluid(settings), settings.boundaries
    return Needs(any_output=cuts[-1] if cuts and not fluid else None, times=fluid, rate=fluid)


def within(settings: Settings, size: EngineSize, law) -> Settings:
    """Boundaries that reach the longest output seen: an engine does not choose its requests."""
    if not settings.boundaries:
        return settings
    cuts, longest = settings.boundaries, int(law.output.max())
    if settings.thresholds == "fluid":
        return covering(settings, longest)
    return settings.model_copy(update={"boundaries": [*cuts[:-1], max(cuts[-1], longest)]})  # one per threshold


def covering(settings, longest: int):
    """Settings whose last boundary is ``longest`` tokens, without those that nobody would reach."""
    return settings.model_copy(update={"boundaries": [*(cut for cut in settings.boundaries if cut < longest), longest]})


def thresholds(knobs: Knobs) -> np.ndarray:
    """n_k per segment."""
    return knobs.thresholds


def memory_size(knobs: Knobs) -> int:
    """Entry-queue counts per segment, then a counter per stage."""
    return len(knobs.boundaries) + int(knobs.boundaries[-1]) + 1


def queue_depth(knobs: Knobs) -> int:
    """Waiting requests, from the head of the queue, that can change a plan: one more than may enter."""
    return int(knobs.thresholds[0]) + 1


def longest_output(knobs: Knobs, kind: np.ndarray) -> np.ndarray:
    """The end of the last segment for every request, int64[N] tokens."""
    return np.full(len(kind), knobs.boundaries[-1])


@jit
def segment_of(boundaries, generated):
    """Index of the segment that computes the next token: the first whose boundary exceeds ``generated``."""
    k = 0
    while k < len(boundaries) - 1 and generated >= boundaries[k]:
        k += 1
    return k


@jit
def plan(view, knobs, memory, out):
    segments = len(knobs.boundaries)
    entry, stage = memory[:segments], memory[segments:]
    served, wake = _served_segments(view, knobs, entry)
    free = view.free
    for k in range(len(view.resident)):
        stage[view.generated[view.resident[k]]] = 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        segment, g = segment_of(knobs.boundaries, view.generated[r]), view.generated[r]
        if segment < served and stage[g] < knobs.thresholds[segment]:
            stage[g] += 1
            out.tokens[k] = 1
            free -= growth(view, r)
    most = knobs.thresholds[0] if served > 0 else 0
    return admit_in_order(view, out, most, NO_LIMIT, NO_LIMIT, free), wake


@jit
def _served_segments(view, knobs, entry):
    """How many segments, counted from the first, this batch serves; and when the next patience ends."""
    entry[:] = 0
    entry[0] = len(view.waiting)
    forced, wake = 0, np.inf
    if len(view.waiting) > 0:
        ends = patience_ends(view, view.waiting[0], knobs.max_wait)
        if view.now >= ends:
            forced = 1
        else:
            wake = ends
    for k in range(len(view.resident)):
        r = view.resident[k]
        segment = segment_of(knobs.boundaries, view.generated[r])
        if segment > 0 and view.generated[r] == knobs.boundaries[segment - 1]:
            entry[segment] += 1
        ends = patience_ends(view, r, knobs.max_wait)
        if view.now >= ends:
            forced = max(forced, segment + 1)
        else:
            wake = min(wake, ends)
    if view.draining:
        return len(entry), wake
    served = 0
    while served < len(entry) and entry[served] >= knobs.thresholds[served]:
        served += 1
    return max(served, forced), wake
