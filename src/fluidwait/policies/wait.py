"""WAIT, Algorithm 1 of the paper: output lengths known, one threshold per request type.

Type j is eligible when n_j of its requests wait for prefill. The batch takes min(n_j, count) requests from every stage
of every eligible type, first come first served inside a stage; all others pause and keep their KV cache.

Liveness beyond the paper: a request held outside batches for ``max_wait`` makes its type eligible, and so does the end
of the arrivals.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.thresholds import wait_thresholds
from fluidwait.policies.contract import (
    Context,
    Needs,
    PolicySettings,
    blocks_for,
    fits,
    growth,
    jit,
    patience_ends,
    to_prefill,
    wants_fluid,
)


class Settings(PolicySettings):
    thresholds: list[int] | Literal["fluid"] = Field(
        "fluid", description="n_j per request type, or 'fluid': the smallest that the fluid model allows"
    )
    max_wait: float = Field(float("inf"), ge=0, description="s that a request may be held in all")


class Knobs(NamedTuple):
    thresholds: np.ndarray  # int64[types]
    first_cell: np.ndarray  # int64[types + 1]: where the stage counters of a type start in `memory`
    max_wait: float  # s


def prepare(settings: Settings, context: Context) -> Knobs:
    """Thresholds from the settings or from the fluid model (:mod:`fluidwait.fluid.thresholds`).

    Raises:
        ConfigError: a threshold per type is missing or below 1, or the fluid model has no feasible ones.
    """
    if settings.thresholds == "fluid":
        d0, d1 = context.linear
        thresholds = wait_thresholds(context.law, context.rate, d0, d1, context.capacity).n
    else:
        thresholds = np.array(settings.thresholds, dtype=np.int64)
        types = len(context.law.share)
        if len(thresholds) != types or thresholds.min() < 1:
            raise ConfigError(f"wait: thresholds: need {types} whole numbers >= 1, found {settings.thresholds}")
    stages = context.law.output.astype(np.int64) + 1
    cells = 2 * len(stages) + np.concatenate(([0], np.cumsum(stages)))
    return Knobs(thresholds.astype(np.int64), cells, settings.max_wait)


def needs(settings: Settings) -> Needs:
    """Iteration times and the rate, for thresholds of the fluid model; the lengths of the types in any case."""
    return Needs(times=wants_fluid(settings), rate=wants_fluid(settings))


def by_type(settings: Settings) -> bool:
    """It has a threshold per request type."""
    return True


def thresholds(knobs: Knobs) -> np.ndarray:
    """n_j per request type."""
    return knobs.thresholds


def memory_size(knobs: Knobs) -> int:
    """Per type: queue count, eligibility; then a counter for every (type, stage)."""
    return int(knobs.first_cell[-1])


def queue_depth(knobs: Knobs) -> int:
    """Waiting requests that decide a plan, counted from the head of the queue; if types come mixed, all that enter.

    A type of which none is among them waits until those before it have entered.
    """
    return 2 * int(np.sum(knobs.thresholds)) + 1


def longest_output(knobs: Knobs, kind: np.ndarray) -> np.ndarray:
    """The output that every type has by definition, int64[N] tokens for requests of these types."""
    return np.diff(knobs.first_cell)[kind] - 1


@jit
def plan(view, knobs, memory, out):
    types = len(knobs.thresholds)
    queued, eligible = memory[:types], memory[types : 2 * types]
    wake = _find_eligible(view, knobs, queued, eligible)
    free = _serve(view, knobs, memory, eligible, out)
    queued[:] = 0
    admitted = 0
    for i in range(len(view.waiting)):
        r = view.waiting[i]
        j = view.kind[r]
        if eligible[j] == 0 or queued[j] == knobs.thresholds[j]:
            continue
        if not fits(view, r, free):
            break
        queued[j] += 1
        free -= blocks_for(view.goal[r], view.block_size)
        out.admit[admitted] = i
        out.chunk[admitted] = to_prefill(view, r)
        admitted += 1
    return admitted, wake


@jit
def _find_eligible(view, knobs, queued, eligible):
    """Set ``eligible`` per type; return the time at which the next request loses its patience."""
    queued[:] = 0
    eligible[:] = 0
    wake = np.inf
    open_types = len(knobs.thresholds)
    for i in range(len(view.waiting)):
        if open_types == 0:  # every type has its threshold: the rest of the queue cannot change anything
            break
        r = view.waiting[i]
        j = view.kind[r]
        queued[j] += 1
        if queued[j] == knobs.thresholds[j]:
            eligible[j] = 1
            open_types -= 1
        if queued[j] == 1:  # the head of a type's queue has waited longest
            wake = min(wake, _check_patience(view, r, knobs.max_wait, eligible))
    for k in range(len(view.resident)):
        wake = min(wake, _check_patience(view, view.resident[k], knobs.max_wait, eligible))
    return wake


@jit
def _check_patience(view, r, max_wait, eligible):
    ends = patience_ends(view, r, max_wait)
    if view.draining or view.now >= ends:
        eligible[view.kind[r]] = 1
        return np.inf
    return ends


@jit
def _serve(view, knobs, memory, eligible, out):
    """One token for up to n_j residents of every stage of the eligible types; returns the free blocks left."""
    free = view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        memory[knobs.first_cell[view.kind[r]] + view.generated[r]] = 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        j = view.kind[r]
        cell = knobs.first_cell[j] + view.generated[r]
        if eligible[j] == 1 and memory[cell] < knobs.thresholds[j]:
            memory[cell] += 1
            out.tokens[k] = 1
            free -= growth(view, r)
    return free
