"""Smallest integer thresholds of WAIT, and the named reason when none exists.

A threshold vector n is feasible when every n_j collects at least the arrivals of one iteration, and memory holds::

    M(n) = sum_j n_j w_j      Delta T(n) = d0 + d1 M(n) <= n_j / lambda_j for all j      M* <= M(n) <= C

The first condition reads n >= F(n) with F_j(n) = ceil(lambda_j Delta T(n)), and F is monotone. By the Knaster-Tarski
theorem the vectors with n >= F(n) have a componentwise smallest element, which is the limit of n <- max(n, F(n)) from
any start below it: no feasible vector is smaller in any component. M(n) grows with n, so if the smallest one does not
fit the memory, none does. M* <= M(n) needs no repair: weighting n_j >= lambda_j Delta T(n) by w_j and summing gives
M(n) >= W (d0 + d1 M(n)), which is M(n) >= d0 W / (1 - d1 W) = M*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.equilibrium import Equilibrium, boundary, check_capacity, equilibrium, kv_work

if TYPE_CHECKING:
    from fluidwait.workload import LengthLaw

# A threshold that misses its condition by less than this (relative) meets it: products such as 0.1 * 30 are not exact.
ROUNDING = 1e-12


class Infeasible(ConfigError):
    """No thresholds satisfy the conditions. ``reason`` is one word:

    unstable      the load d1 W is at least 1: no policy is stable
    memory        the equilibrium itself does not fit the KV memory
    integrality   the equilibrium fits, but the smallest integer thresholds do not
    segments      (Nested WAIT) the segments are so coarse that a request counts as more work than the system can carry
    continuation  (Nested WAIT) nobody finishes in some segment, so n_k / n_{k-1} > p_k = 1 contradicts n_k < n_{k-1}
    """

    def __init__(self, reason: str, message: str):
        super().__init__(f"no feasible thresholds ({reason}): {message}")
        self.reason = reason


class Thresholds(NamedTuple):
    """Feasible thresholds of WAIT.

    n                   i8[m] requests, >= 1
    iteration_time      s, Delta T(n): a full batch
    memory              KV tokens of a full batch, M(n)
    equilibrium_memory  KV tokens, M*
    slack               f8[m], n_j / (lambda_j Delta T(n)) - 1; infinite for a type that never arrives
    """

    n: np.ndarray
    iteration_time: float
    memory: float
    equilibrium_memory: float
    slack: np.ndarray


def wait_thresholds(law: LengthLaw, rate: float, d0: float, d1: float, capacity: float) -> Thresholds:
    """The componentwise smallest feasible integer thresholds of WAIT (see the module for equations and proof).

    Args:
        rate: requests/s over all types, > 0.
        d0, d1: s per iteration, s per KV token.
        capacity: C, KV tokens; may be infinite.

    Raises:
        Infeasible: none exist; ``reason`` says why (unstable, memory, integrality).
        ConfigError: a number outside its range.
    """
    check_rate(rate)
    check_capacity(capacity)
    base = equilibrium(law, rate, d0, d1)
    check_equilibrium(base, rate, capacity, boundary(law, d0, d1, capacity))
    work, rates = kv_work(law).per_type, rate * law.share
    n = least_fixed_point(
        need=lambda n: enough(rates * (d0 + d1 * (work @ n))),
        start=enough(base.per_stage),  # every solution lies above the real-valued one
        fits=lambda n: within(work @ n, capacity),
    )
    if n is None:
        raise integrality(rate, base.memory, capacity)
    memory = float(work @ n)
    seconds = d0 + d1 * memory
    slack = np.divide(n, rates * seconds, out=np.full(len(n), math.inf), where=rates > 0) - 1.0
    return Thresholds(n, seconds, memory, float(base.memory), slack)


def least_fixed_point(
    need: Callable[[np.ndarray], np.ndarray], start: np.ndarray, fits: Callable[[np.ndarray], bool]
) -> np.ndarray | None:
    """Smallest n >= max(start, need(n)) for a monotone ``need``, or None when it does not fit.

    Every iterate lies below the solution, so as soon as one does not fit (``fits`` is monotone too) there is none.
    """
    n = np.maximum(start, 1)
    while fits(n):
        higher = np.maximum(n, need(n))
        if np.array_equal(higher, n):
            return n
        n = higher
    return None


def enough(amount: np.ndarray | float, strict: bool = False) -> np.ndarray:
    """Smallest integers >= amount (> amount when strict), i8; amounts within rounding of an integer count as it."""
    amount = np.asarray(amount, dtype=np.float64)
    count = np.floor(amount * (1.0 + ROUNDING)) + 1.0 if strict else np.ceil(amount * (1.0 - ROUNDING))
    return count.astype(np.int64)


def within(memory: float, capacity: float) -> bool:
    """memory <= capacity, where a rounding error does not count: C = M* is a case of interest in the theory."""
    return bool(memory <= capacity * (1.0 + ROUNDING))


def check_rate(rate: float) -> None:
    """Raise ConfigError unless rate > 0 and finite."""
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"rate: must be a finite number > 0 (requests/s), found {rate}")


def check_equilibrium(state: Equilibrium, rate: float, capacity: float, largest: float) -> None:
    """Raise Infeasible (unstable, memory) when the equilibrium of ``rate`` does not exist or does not fit."""
    if not state.stable:
        raise Infeasible(
            "unstable",
            f"rate {rate:g} requests/s has load d1*W = {state.load:.4g} >= 1; "
            f"the largest rate that fits is {largest:.4g}",
        )
    if not within(state.memory, capacity):
        raise Infeasible(
            "memory",
            f"rate {rate:g} requests/s needs {state.memory:.0f} KV tokens of {capacity:.0f}; "
            f"the largest rate that fits is {largest:.4g}",
        )


def integrality(rate: float, needed: float, capacity: float) -> Infeasible:
    """The error for an equilibrium that fits while the smallest integer thresholds do not."""
    return Infeasible(
        "integrality",
        f"rate {rate:g} requests/s needs {needed:.0f} KV tokens in the fluid limit, but the smallest whole-number "
        f"thresholds, at least one request per stage, need more than the capacity of {capacity:.0f}",
    )
