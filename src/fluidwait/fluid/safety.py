"""Memory of Nested WAIT with its safety buffer: the overflow exponent and the three memory terms.

Segment k covers stages r_{k-1}+1..r_k (segment 1 also stage 0, the prefill). With delta_1 = r_1 + 1, s_1 = r_1 / 2 and
delta_k = r_k - r_{k-1}, s_k = (r_{k-1} + 1 + r_k) / 2 for k >= 2::

    base    M = sum_k n_k (l_k + s_k) delta_k                           every stage full
    queue     = sum_{k>=2} (l_k + r_{k-1}) n_k                          paused below the threshold
    buffer    = sum_{k>=2} (l_k + r_{k-1}) ln(m (1 + zeta T / d0) / delta) / theta_k
    theta_k > 0 solves  e^{-theta n_k} (1 - p_k + p_k e^theta)^{n_{k-1}} = 1

Their sum is enough memory up to time T with probability at least 1 - delta.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError


class RequiredMemory(NamedTuple):
    """KV tokens of the three terms; ``total`` is their sum."""

    base: float
    queue: float
    buffer: float

    @property
    def total(self) -> float:
        return self.base + self.queue + self.buffer


def theta_bound(n_k: float, n_prev: float, p: float) -> float:
    """Lower bound 8 (n_k - n_prev p) / n_prev of :func:`theta`, from Hoeffding's lemma ln(1-p+p e^t) <= p t + t^2/8."""
    return 8.0 * (n_k - n_prev * p) / n_prev


def theta(n_k: float, n_prev: float, p: float) -> float:
    """The positive root of -theta n_k + n_prev ln(1 - p + p e^theta) = 0.

    Infinite when the queue cannot overflow: p = 0, or n_k >= n_prev (a batch never brings more than it takes).
    The root lies between :func:`theta_bound` and -ln(p) / (1 - n_k / n_prev), from 1 - p + p e^theta >= p e^theta.

    Raises:
        ConfigError: not n_k > n_prev p, n_prev > 0 and 0 <= p <= 1: the queue drifts upwards and no root exists.
    """
    if not (n_prev > 0 and 0.0 <= p <= 1.0 and n_k > n_prev * p):
        raise ConfigError(f"segments: need n_k > n_prev * p with p in [0, 1], found n_k={n_k}, n_prev={n_prev}, p={p}")
    if p == 0.0 or n_k >= n_prev:
        return math.inf
    ratio = n_k / n_prev

    def excess(x: float) -> float:
        # log1p(p expm1(x)) is exact for small x, logaddexp does not overflow for large x
        grown = math.log1p(p * math.expm1(x)) if x < 1.0 else np.logaddexp(math.log1p(-p), math.log(p) + x)
        return float(grown) - ratio * x

    low, high = theta_bound(n_k, n_prev, p), -math.log(p) / (1.0 - ratio)
    if excess(low) >= 0.0:  # the bound is the root to the last digit
        return low
    if excess(high) <= 0.0:
        return high
    from scipy.optimize import brentq  # slow to import, seldom needed

    return float(brentq(excess, low, high, xtol=1e-300, rtol=1e-14, maxiter=500))


def base_memory(n: np.ndarray, boundaries: np.ndarray, prompt: np.ndarray | float) -> float:
    """sum_k n_k (l_k + s_k) delta_k in KV tokens, for ``n`` and ``boundaries`` of length L; ``prompt`` l_k or one l."""
    return float(np.asarray(n, dtype=np.float64) @ stage_work(boundaries, prompt))


def stage_work(boundaries: np.ndarray, prompt: np.ndarray | float) -> np.ndarray:
    """(l_k + s_k) delta_k, f8[L]: KV tokens of a segment with one request in each of its stages."""
    end = np.asarray(boundaries, dtype=np.float64)
    first = np.concatenate([[0.0], end[:-1] + 1.0])  # first stage of the segment
    return (prompt + (first + end) / 2.0) * (end - first + 1.0)


def required_memory(
    n: np.ndarray,
    continuation: np.ndarray,
    boundaries: np.ndarray,
    prompt: np.ndarray | float,
    *,
    horizon: float,
    risk: float,
    d0: float,
) -> RequiredMemory:
    """The three memory terms (see the module) for thresholds ``n`` f8[L], which need not be integers.

    Args:
        continuation: p_k for k = 2..L, f8[L-1].
        boundaries: r_1 < ... < r_L in output tokens.
        prompt: prompt tokens, one number or f8[L] by segment.
        horizon: T in s. risk: overflow probability delta in (0, 1). d0: s per iteration.

    Raises:
        ConfigError: a number outside its range, or a threshold with n_k <= n_{k-1} p_k.
    """
    if not (horizon > 0 and 0.0 < risk < 1.0 and d0 > 0):
        raise ConfigError(
            f"safety: need horizon > 0, 0 < risk < 1 and d0 > 0, found horizon={horizon}, risk={risk}, d0={d0}"
        )
    n, end = np.asarray(n, dtype=np.float64), np.asarray(boundaries, dtype=np.float64)
    held = np.broadcast_to(np.asarray(prompt, dtype=np.float64), end.shape)[1:] + end[:-1]  # tokens of a paused request
    exponent = np.array([theta(b, a, p) for a, b, p in zip(n[:-1], n[1:], continuation, strict=True)])
    log_term = math.log(len(n) * (1.0 + horizon / d0) / risk)
    return RequiredMemory(
        base=base_memory(n, end, prompt), queue=float(held @ n[1:]), buffer=float((held / exponent).sum() * log_term)
    )
