"""Is a run at a constant arrival rate stable, and up to which rate of a grid is a policy stable.

**The rule.** A server of capacity μ offered λ > μ requests/s leaves the share 1 - μ/λ of them behind: the number in
system n(t) grows by λ - μ per second. :func:`drift` estimates that share as the least-squares slope of n(t) on t,
divided by the arrival rate, over the time between the arrival of the request at one quarter (the system has filled by
then) and the last arrival (the drain afterwards says nothing). A run of N requests is *stable* when

    drift <= 0.75 / sqrt(N)          (0.0106, about 1 % of the offered load, at N = 5,000)

The margin shrinks like 1/sqrt(N) because the noise does: at μ = λ, with Poisson arrivals, n(t) is close to a random
walk, whose fitted slope over three quarters of N arrivals has standard deviation sqrt(1.2 / 0.75 / N) = 1.26 / sqrt(N).
**λ* on a grid** is the largest rate of it such that it and every lower one is stable in more than half of the
replications. :mod:`fluidwait.experiments.bisection` finds λ* itself, with a confidence interval.

The number in system is used, not latency: it drifts alike whatever the lengths of the requests and whichever request a
policy serves first, and a starved request counts as long as it is inside. Arrivals of changing rate have no such drift;
the rule is not for them. Requests must be shorter than the first quarter of the run, or filling looks like growth.

**Error rates**, measured over 200 seeds per load ρ = λ/μ, N = 5,000, Poisson arrivals, on an M/D/1 queue and (the same
within 0.01) on a server that takes up to 32 requests at a time: share of single runs judged wrongly, and of majorities
of 10 replications.

    ρ            0.90   0.95   0.98   1.02   1.05   1.10
    single       0.00   0.00   0.10   0.33   0.01   0.00
    majority     0.00   0.00   0.00   0.00   0.00   0.00

At N = 1,000 the single-run errors are 0.03, 0.10, 0.29, 0.47, 0.24, 0.05 and the majority errors 0, 0, 0.15, 0.30, 0,
0: with so few requests loads within 2 % of the boundary are not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

WARM_UP = 0.25
"""Share of the requests, by arrival order, before the drift is measured."""

MARGIN = 0.75
"""A run of N requests is stable up to a drift of MARGIN / sqrt(N)."""

POINTS = 1000
"""Equally spaced times at which the number in system is read."""


def drift(arrival: np.ndarray, completion: np.ndarray) -> float:
    """Share of the offered requests that accumulates; about max(0, 1 - μ/λ).

    Args:
        arrival, completion: float64[N], s; the drained run's requests in any order, N >= 8.

    Raises:
        ValueError: fewer than eight requests, or all of the last three quarters arrive at once.
    """
    arrival, completion = np.sort(arrival), np.sort(completion)
    times = _times(arrival)
    number = np.searchsorted(arrival, times, "right") - np.searchsorted(completion, times, "right")
    first = int(WARM_UP * len(arrival))
    return _slope(number, times) * float(arrival[-1] - arrival[first]) / (len(arrival) - 1 - first)


def fitted_rate(arrival: np.ndarray) -> float:
    """Least-squares slope of the number of arrivals on time, requests/s, over the times at which drift is measured.

    Args:
        arrival: float64[N], s, in any order, N >= 8; errors as for :func:`drift`.
    """
    arrival = np.sort(arrival)
    times = _times(arrival)
    return _slope(np.searchsorted(arrival, times, "right"), times)


def _times(arrival: np.ndarray) -> np.ndarray:
    """Times at which the number in system is read, s."""
    first = int(WARM_UP * len(arrival))
    if len(arrival) < 8 or arrival[-1] <= arrival[first]:
        raise ValueError("drift needs at least eight requests, spread over time")
    return np.linspace(arrival[first], arrival[-1], POINTS)


def _slope(number: np.ndarray, times: np.ndarray) -> float:
    centred = times - times.mean()
    return float(centred @ number / (centred @ centred))


def stability_boundary(stable: Mapping[float, Sequence[bool]]) -> float | None:
    """λ*: the largest rate such that it and all lower ones are stable in more than half of the replications.

    Args:
        stable: for each rate of the grid, requests/s, whether each replication is stable.

    Returns:
        λ* in requests/s; None when the lowest rate is unstable already.

    Raises:
        ValueError: the grid is empty, or a rate has no replications.
    """
    if not stable or not all(len(runs) for runs in stable.values()):
        raise ValueError("a stability boundary needs rates, each with at least one replication")
    boundary = None
    for rate in sorted(stable):
        if 2 * sum(map(bool, stable[rate])) <= len(stable[rate]):
            break
        boundary = rate
    return boundary
