"""λ* of a policy: the arrival rate above which a backlog grows, by bisection, once per replication.

One replication draws N requests and keeps them: another rate λ only stretches their arrival times, and every policy
meets the same ones (common random numbers). With the drift of :mod:`fluidwait.stats.stability`, the share of the
offered requests that accumulates, about 1 - μ/λ above the boundary μ:

1. the bisection finds, among the multiples of ``resolution``, two neighbours with drifts on either side of
   θ = 2/sqrt(N) (0.014 at N = 20,000), and by a straight line between them the rate λ_θ at which drift = θ;
2. **λ* = (1 - θ) λ_θ**, what the server completes per second while the share θ is left behind.

Why not the rule for a single run, drift <= 0.75/sqrt(N)? So close to the boundary the number in system still
fluctuates, strongly when many requests are in service, and it is mostly chance where a single run crosses. A bisection
with that rule also ends 0.6/sqrt(N) of μ too high. At θ the backlog surely grows, and the step from λ_θ to λ* is exact
if the server completes as many per second at λ_θ as at λ*, 1.4 % lower.

Arrival times are scaled so that their fitted rate (:func:`fitted_rate`) is exactly the λ asked for. Otherwise most of
the noise would be by how much N arrivals happen to miss λ. docs/stability.md has the measured bias, and
how often the interval covers μ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.setting import Setting
from fluidwait.experiments.sweep import code_of, identity, run_once, winners
from fluidwait.stats.stability import drift, fitted_rate
from fluidwait.workload import input_files

CRITICAL = 2.0
"""The bisection looks for a drift of CRITICAL / sqrt(N) in runs of N requests."""

WIDENINGS = 4
"""How often an end of the bracket that is on the wrong side is moved outwards."""

FINEST = 1_000_000
"""Steps from 0 to the high end of the bracket, at most."""

LOWER, HIGHER = 0.5, 1.5
"""Factors by which the ends move."""


def crossing(
    drift_at: Callable[[float], float], level: float, low: float, high: float, resolution: float
) -> float | None:
    """The rate, requests/s, at which the drift rises through ``level``.

    Bisects the multiples of ``resolution`` (requests/s) and interpolates between the last two. Where the drift crosses
    more than once, it is one of the crossings.

    Args:
        drift_at: drift of a run at a rate; asked once per rate.
        low, high: rates expected on either side, requests/s; an end on the wrong side is moved outwards.

    Returns:
        None when no rate on the low side, or none on the high side, is found after ``WIDENINGS`` moves.
    """
    drift_of = cache(lambda place: drift_at(place * resolution))
    below, above = max(round(low / resolution), 1), max(round(high / resolution), 2)
    for _ in range(WIDENINGS):
        if drift_of(below) > level:
            below, above = max(int(below * LOWER), 1), below
        elif drift_of(above) <= level:
            below, above = above, ceil(above * HIGHER)
    if not drift_of(below) <= level < drift_of(above):
        return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if drift_of(middle) <= level else (below, middle)
    part = (level - drift_of(below)) / (drift_of(above) - drift_of(below))
    return (below + part) * resolution


def lambda_star(
    serve: Callable[[np.ndarray, float], np.ndarray], arrival: np.ndarray, low: float, high: float, resolution: float
) -> float | None:
    """λ* of one replication, requests/s; None when :func:`crossing` finds nothing.

    Args:
        serve: (arrival times s, rate) to completion times, s, in any order.
        arrival: float64[N], s, at any rate; scaled to each rate that is tried.
        low, high, resolution: as in :func:`crossing`.
    """
    level = CRITICAL / len(arrival) ** 0.5
    unit = arrival * fitted_rate(arrival)
    rate = crossing(lambda rate: drift(unit / rate, serve(unit / rate, rate)), level, low, high, resolution)
    return None if rate is None else (1 - level) * rate


# --- of an experiment ----------------------------------------------------------------------------------------------


def boundary(setting: Setting, key: str, scale: str, tuning: str | None = None) -> Artifact:
    """λ* of the policy in every replication: one row for each, empty where no boundary was found.

    A tuned policy runs at any rate with the winner of the nearest tuned one (the lower of two equally near). Of an
    experiment that is not searched (:func:`is_searched`), the table has no row.
    """
    return Artifact(
        lambda path, _: _table(setting, key, scale, winners(tuning)).write_csv(path),
        search_identity(setting, key, scale),
        code(setting, key),
        rule="boundary",
        inputs=names([*input_files(setting.workload), *([tuning] if tuning else [])]),
    )


def is_searched(experiment: Experiment, scale: str) -> bool:
    """Whether λ* of the experiment's policies is searched at this scale."""
    return experiment.is_searched_at(scale)


def search_identity(setting: Setting, key: str, scale: str) -> dict[str, Any]:
    """Everything besides inputs and code that decides λ* of a policy."""
    experiment = setting.experiment
    if not is_searched(experiment, scale):
        return {"searched": False}
    own = ("engine", "experiment", "hardware", "workload", "semantics", "time_model", "policy")
    everything = identity(setting, key, scale)
    low, high = experiment.bracket_at(scale)
    return {name: everything[name] for name in own} | {
        "low": low,
        "high": high,
        "resolution": experiment.search.resolution,
        "requests": experiment.boundary_requests_at(scale),
        "replications": experiment.scale(scale).replications,
        "seed": experiment.boundary_seed_at(scale),
    }


def code(setting: Setting, key: str) -> tuple[str, ...]:
    """Modules that compute λ* of a policy."""
    return tuple(sorted({*imported_modules(__name__), *code_of(setting, key)}))


def nearest_winner(chosen: dict[float, dict[str, Any]], rate: float) -> dict[str, Any] | None:
    """The combination chosen at the tuned rate nearest to ``rate``; None when nothing was tuned."""
    return chosen[min(chosen, key=lambda tuned: (abs(tuned - rate), tuned))] if chosen else None


def check(setting: Setting, scale: str) -> None:
    """Whether λ* can be searched, if it is to be.

    Raises:
        ConfigError: the search has no room.
    """
    if is_searched(setting.experiment, scale):
        low, high = setting.experiment.bracket_at(scale)
        if low >= high:
            raise ConfigError(
                f"experiment {setting.experiment.id}: boundary: the search goes from {low:g} to {high:g} requests/s "
                f"(low and high, else the lowest and highest of the rates): give a low below {high:g} or a higher high"
            )
        resolution, least, most = setting.experiment.search.resolution, high / FINEST, high - low
        if not least <= resolution <= most:
            raise ConfigError(
                f"experiment {setting.experiment.id}: boundary.resolution: {resolution:g} requests/s in a search from "
                f"{low:g} to {high:g} (nearest valid value: {min(max(resolution, least), most):g})"
            )


def _table(setting: Setting, key: str, scale: str, chosen: dict[float, dict[str, Any]]) -> pl.DataFrame:
    searched = is_searched(setting.experiment, scale)
    replications = range(setting.experiment.scale(scale).replications if searched else 0)
    stars = [_replication(setting, key, scale, chosen, replication) for replication in replications]
    schema = {"replication": int, "lambda_star": float}
    return pl.DataFrame({"replication": list(replications), "lambda_star": stars}, schema=schema)


def _replication(setting: Setting, key: str, scale: str, chosen: dict, replication: int) -> float | None:
    experiment = setting.experiment
    n, seed = experiment.boundary_requests_at(scale), experiment.boundary_seed_at(scale)
    requests = setting.requests(n, 1.0, seed, replication)

    def serve(arrival: np.ndarray, rate: float) -> np.ndarray:
        policy = setting.policy(key, nearest_winner(chosen, rate))
        return run_once(setting, key, policy, requests._replace(arrival=arrival), rate).completion

    return lambda_star(serve, requests.arrival, *experiment.bracket_at(scale), experiment.search.resolution)
