"""Exponents of power laws, with bootstrap intervals over replications; exact intervals of proportions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when first used

from fluidwait.base.errors import FluidwaitError

RESAMPLES = 2000


class Exponent(NamedTuple):
    """An exponent with its 95 % interval (NaN with one replication), and the decades that it was fitted over."""

    value: float
    low: float
    high: float
    decades: float


def log_slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of ln y over ln x along the last axis; ``x`` f8[K] > 0, ``y`` f8[..., K] > 0."""
    across = np.log(x) - np.log(x).mean()
    return np.log(y) @ across / (across @ across)


def fit_exponent(x: np.ndarray, values: np.ndarray, decades: float, seed: int) -> Exponent:
    """Exponent of the mean over replications, fitted over the last ``decades`` of ``x``.

    Args:
        x: horizons f8[K], increasing.
        values: f8[R, K], one row per replication. Rows share nothing; values of a row come from one run and are
            dependent, so whole rows are resampled (percentile bootstrap, fixed ``seed``).

    Raises:
        FluidwaitError: fewer than two horizons to fit, or a mean that is not positive.
    """
    kept = x >= x[-1] / 10.0**decades * (1.0 - 1e-9)
    x, values = x[kept], values[:, kept]
    if len(x) < 2:
        raise FluidwaitError(f"exponent: a fit needs two horizons at least, found {len(x)} in {decades:g} decades")
    if np.any(values.mean(axis=0) <= 0.0):
        raise FluidwaitError("exponent: a mean over the replications is not positive; run more replications")
    span, slope = float(np.log10(x[-1] / x[0])), float(log_slope(x, values.mean(axis=0)))
    if len(values) < 2:
        return Exponent(slope, np.nan, np.nan, span)

    def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
        drawn = values[np.moveaxis(rows, axis, -1).astype(np.int64)]  # [..., R, K]
        return log_slope(x, np.maximum(drawn.mean(axis=-2), np.finfo(float).tiny))

    found = scipy.stats.bootstrap(
        (np.arange(len(values)),),
        statistic,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Exponent(slope, float(found.low), float(found.high), span)


def exact_proportion(count: int, trials: int) -> tuple[float, float]:
    """The Clopper-Pearson interval of a proportion: covers the truth with probability 95 % at least."""
    interval = scipy.stats.binomtest(count, trials).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)
