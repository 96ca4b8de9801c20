"""Fluid equilibrium of the paper's two-parameter model: iteration time, KV memory and the stability region.

The iteration time of a batch is ``d0 + d1 * (KV tokens of the batch)``. Type j arrives at rate
lambda_j = rate * share_j with prompt l_j and output l'_j. One request is batched l'_j + 1 times and holds l_j + s
tokens at stage s = 0..l'_j.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError

if TYPE_CHECKING:
    from fluidwait.workload import LengthLaw


class KvWork(NamedTuple):
    """KV-token-iterations of one request: ``per_type`` f8[m], and ``mean`` over the length law."""

    per_type: np.ndarray
    mean: float


class Equilibrium(NamedTuple):
    """Fluid equilibrium. When ``stable`` is false, times, memory and counts are infinite.

    iteration_time  s, Delta T*
    memory          KV tokens, M*
    per_stage       f8[m], n*_j = lambda_j Delta T*: requests of type j in each of its l'_j + 1 stages
    in_service      f8[m], n*_j (l'_j + 1): resident requests of type j
    throughput      decode tokens per s offered, sum_j lambda_j l'_j
    load            d1 * W, below 1 iff stable
    stable          whether any policy can be stable when memory is unlimited
    """

    iteration_time: float
    memory: float
    per_stage: np.ndarray
    in_service: np.ndarray
    throughput: float
    load: float
    stable: bool


def kv_work(law: LengthLaw) -> KvWork:
    """w_j = sum_{s=0..l'_j} (l_j + s) = (l'_j + 1)(l_j + l'_j / 2), and its mean over the law."""
    per_type = (law.output + 1.0) * (law.prompt + law.output / 2.0)
    return KvWork(per_type, float(law.share @ per_type))


def equilibrium(law: LengthLaw, rate: float, d0: float, d1: float) -> Equilibrium:
    """Flow balance n_j = lambda_j Delta T of Delta T = d0 + d1 sum_j n_j w_j, with W = sum_j lambda_j w_j::

        Delta T* = d0 / (1 - d1 W)      M* = d0 W / (1 - d1 W)      n*_j = lambda_j Delta T*

    Args:
        rate: requests/s over all types, >= 0.
        d0, d1: s per iteration (> 0) and s per KV token (>= 0).

    Raises:
        ConfigError: a number outside its range.
    """
    check_times(d0, d1)
    if not (rate >= 0 and math.isfinite(rate)):
        raise ConfigError(f"rate: must be a finite number >= 0 (requests/s), found {rate}")
    offered = rate * kv_work(law).mean
    load = d1 * offered
    iteration_time = d0 / (1.0 - load) if load < 1.0 else math.inf
    per_stage = rate * law.share * iteration_time
    return Equilibrium(
        iteration_time=iteration_time,
        memory=offered * iteration_time,
        per_stage=per_stage,
        in_service=per_stage * (law.output + 1.0),
        throughput=float(rate * (law.share @ law.output)),
        load=float(load),
        stable=bool(load < 1.0),
    )


def boundary(law: LengthLaw, d0: float, d1: float, capacity: float) -> float:
    """Largest rate (requests/s) whose equilibrium fits: M*(rate) = C at rate = 1 / (w (d1 + d0 / C)), w the mean work.

    ``capacity`` is C in KV tokens; infinite gives the largest rate that is stable at all, 1 / (w d1).

    Raises:
        ConfigError: d0 or d1 outside its range, or capacity <= 0.
    """
    check_times(d0, d1)
    check_capacity(capacity)
    seconds_per_token = d1 + d0 / capacity
    return 1.0 / (kv_work(law).mean * seconds_per_token) if seconds_per_token > 0 else math.inf


def check_times(d0: float, d1: float) -> None:
    """Raise ConfigError unless d0 > 0 and d1 >= 0, both finite."""
    if not (d0 > 0 and math.isfinite(d0)):
        raise ConfigError(f"d0: must be a finite number > 0 (s per iteration), found {d0}")
    if not (d1 >= 0 and math.isfinite(d1)):
        raise ConfigError(f"d1: must be a finite number >= 0 (s per KV token), found {d1}")


def check_capacity(capacity: float) -> None:
    """Raise ConfigError unless capacity > 0 (infinite is allowed)."""
    if not capacity > 0:
        raise ConfigError(f"capacity: must be > 0 (KV tokens), found {capacity}")
