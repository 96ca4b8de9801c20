"""Time-varying arrivals: expected arrivals of a window, and the worst case over windows.

Rates are piecewise constant: ``start`` f8[k] in s, increasing, and ``rates`` f8[k, m] in requests/s per type (or f8[k]
for one stream); piece i holds on [start_i, start_{i+1}), the last one for ever, and nothing arrives before start_0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.equilibrium import check_capacity, check_times, equilibrium, kv_work
from fluidwait.fluid.thresholds import Infeasible, Thresholds, enough, least_fixed_point, summary, within

if TYPE_CHECKING:
    from fluidwait.workload import LengthLaw


def window_arrivals(start: np.ndarray, rates: np.ndarray, t: np.ndarray | float, h: float) -> np.ndarray:
    """Expected arrivals in [t, t + h], the integral of the rate: shape of ``t`` followed by that of one piece.

    Raises:
        ConfigError: ``start`` not increasing, a rate negative, or h < 0.
    """
    start, rates = _checked(start, rates)
    if not h >= 0:
        raise ConfigError(f"window: must be >= 0 (s), found {h}")
    t = np.asarray(t, dtype=np.float64)
    return _cumulative(start, rates, t + h) - _cumulative(start, rates, t)


def peak_arrivals(start: np.ndarray, rates: np.ndarray, h: float) -> np.ndarray:
    """sup over t of the expected arrivals in [t, t + h], per type.

    The window's integral is piecewise linear in t, so it peaks where an edge of the window meets a change of rate.
    """
    start = np.asarray(start, dtype=np.float64)
    return window_arrivals(start, rates, np.concatenate([start, start - h]), h).max(axis=0)


def continuation_sup(law: LengthLaw, rates: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """p*_k = sup over windows of P(reach segment k | reached segment k-1), f8[L-1], for ``rates`` f8[k, m].

    The ratio of a window is a weighted mean of the ratios of the pieces it touches, and short windows attain each of
    them, so the supremum over windows of any length is the largest ratio of a single piece.
    """
    rates = np.asarray(rates, dtype=np.float64)
    reach = law.output[None, :] > np.concatenate([[0], np.asarray(boundaries)[:-1]])[:, None]  # [L, m]
    flow = rates @ reach.T  # [k, L] requests/s that reach each segment
    ratio = np.divide(flow[:, 1:], flow[:, :-1], out=np.zeros_like(flow[:, 1:]), where=flow[:, :-1] > 0)
    return ratio.max(axis=0)


def varying_thresholds(
    law: LengthLaw, start: np.ndarray, rates: np.ndarray, d0: float, d1: float, capacity: float
) -> Thresholds:
    """Smallest integer WAIT thresholds for rates f8[k, m] over time: n_j >= sup_t arrivals_j[t, t + Delta T(n)].

    The argument of :mod:`fluidwait.fluid.thresholds` holds unchanged: the right-hand side is monotone in n.
    ``law.share`` is not used. ``equilibrium_memory`` and ``slack`` of the result refer to the peak rates. ``capacity``
    (KV tokens) must be finite.

    Raises:
        Infeasible: ``memory``, the smallest thresholds need more than the capacity.
        ConfigError: a number outside its range.
    """
    check_times(d0, d1)
    check_capacity(capacity)
    if not np.isfinite(capacity):
        raise ConfigError(f"capacity: must be finite for time-varying rates (KV tokens), found {capacity}")
    work = kv_work(law).per_type
    n = least_fixed_point(
        need=lambda n: enough(peak_arrivals(start, rates, d0 + d1 * (work @ n))),
        start=enough(peak_arrivals(start, rates, d0)),
        fits=lambda n: within(work @ n, capacity),
    )
    if n is None:
        raise Infeasible("memory", f"the peak rates need more than the capacity of {capacity:.0f} KV tokens")
    memory = float(work @ n)
    peak = np.asarray(rates, dtype=np.float64).max(axis=0)
    at_peak = equilibrium(law._replace(share=peak / peak.sum()), float(peak.sum()), d0, d1)
    return summary(n, peak, d0 + d1 * memory, memory, at_peak.memory)


def _cumulative(start: np.ndarray, rates: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Expected arrivals in (-inf, t]: shape t.shape + rates.shape[1:]."""
    length = np.append(np.diff(start), np.inf)
    spent = np.clip(t[..., None] - start, 0.0, length)  # s of each piece that lie before t
    return spent @ rates


def _checked(start: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start, rates = np.asarray(start, dtype=np.float64), np.asarray(rates, dtype=np.float64)
    if len(start) == 0 or len(start) != len(rates) or np.any(np.diff(start) <= 0):
        raise ConfigError("rates: every piece needs a start time (s), and start times must increase")
    if np.any(rates < 0) or not np.all(np.isfinite(rates)):
        raise ConfigError("rates: every rate must be a finite number >= 0 (requests/s)")
    return start, rates
