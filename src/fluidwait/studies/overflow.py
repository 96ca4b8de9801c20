"""E11, overflow: how often Nested WAIT needs more KV memory than its bound M^req(T, delta), and how loose the bound is.

Nested WAIT runs with unlimited memory, its conditions strict, and every request that arrives within T is served to
the end; a run overflows when its peak of resident KV tokens exceeds M^req. The peak includes the drain after T, so
overflows are never counted too low.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy  # its parts are loaded when first used

from fluidwait.artifacts.step import Artifact
from fluidwait.fluid.segments import nested_memory
from fluidwait.stats.exponents import exact_proportion
from fluidwait.studies.cases import prepared
from fluidwait.studies.e11 import E11
from fluidwait.studies.study import seed_at, table_product
from fluidwait.workload import Requests

FIRST_REPLICATION = 10_000
"""Replications of the other tables come before it: no run shares its requests."""


def overflow(study: E11, scale: str) -> Artifact:
    """One row per thresholds, horizon and delta; see :func:`rows_of`."""
    return table_product(
        lambda: table(study, scale), identity=recorded(study, scale), module=__name__, rule="study_overflow"
    )


def table(study: E11, scale: str) -> pl.DataFrame:
    """The table of :func:`overflow`."""
    case, rows = study.cases[study.overflow.case], []
    for thresholds in case.thresholds or ():
        for index, sizes in enumerate(study.scale(scale).overflow):
            found = peaks(study, thresholds, sizes.iterations, sizes.runs, scale, index)
            rows += rows_of(study, thresholds, sizes.iterations, found)
    return pl.DataFrame(rows)


def recorded(study: E11, scale: str) -> dict:
    """Everything in the configuration that decides the table."""
    case = study.cases[study.overflow.case]
    return {
        "study": study.id,
        "seed": seed_at(study.seed, scale),
        "overflow": study.overflow.model_dump(mode="json"),
        "case": case.model_dump(mode="json"),
        "instance": study.instances[case.instance].model_dump(mode="json"),
        "runs": [sizes.model_dump(mode="json") for sizes in study.scale(scale).overflow],
    }


def peaks(study: E11, thresholds: list[int], iterations: float, runs: int, scale: str, index: int = 0) -> np.ndarray:
    """Peak of resident KV tokens of each run, i8[runs]; ``index`` tells the horizons' requests apart."""
    case = study.cases[study.overflow.case]
    offered, simulate = study.offered(case), prepared(study, case, thresholds)
    horizon = iterations * offered.iteration_time
    found = np.zeros(runs, dtype=np.int64)
    for run in range(runs):
        replication = FIRST_REPLICATION * (index + 1) + run
        drawn = offered.requests_until(horizon, seed_at(study.seed, scale), replication)
        within = int(np.searchsorted(drawn.arrival, horizon, side="right"))
        if within:
            found[run] = simulate(Requests(*(column[:within] for column in drawn))).peak_blocks
    return found


def rows_of(study: E11, thresholds: list[int], iterations: float, peak: np.ndarray) -> list[dict]:
    """One row per delta.

    delta; required, base, queue, buffer (KV tokens: M^req and its terms); runs, overflows, frequency with its exact
    95 % interval (low, high); holds (low <= delta: the runs do not refute the bound); median_peak, largest_peak;
    quantile, the (1 - delta) quantile of the peaks with an exact 95 % interval from order statistics (empty where the
    runs are too few); used = (quantile - base) / (required - base), the share of what is set aside on top of full
    stages that was needed (negative: the peak stays below full stages).
    """
    case = study.cases[study.overflow.case]
    offered, ordered = study.offered(case), np.sort(peak)
    d0, ends, rows = study.instances[case.instance].d0, case.boundaries or (), []
    for risk in study.overflow.risks:
        horizon = iterations * offered.iteration_time
        memory = nested_memory(offered.law, np.array(thresholds), ends, horizon=horizon, risk=risk, d0=d0)
        count = int(np.sum(peak > memory.total))
        low, high = exact_proportion(count, len(peak))
        quantile = quantile_interval(ordered, 1.0 - risk)
        set_aside = memory.total - memory.base
        rows.append(
            {
                "thresholds": " ".join(map(str, thresholds)),
                "iterations": iterations,
                "zeta_t": horizon,
                "delta": risk,
                "required": memory.total,
                "base": memory.base,
                "queue": memory.queue,
                "buffer": memory.buffer,
                "runs": len(peak),
                "overflows": count,
                "frequency": count / len(peak),
                "low": low,
                "high": high,
                "holds": low <= risk,
                "median_peak": float(np.median(peak)),
                "largest_peak": int(ordered[-1]),
                **dict(zip(("quantile", "quantile_low", "quantile_high"), quantile or (None,) * 3, strict=True)),
                "used": None if quantile is None else (quantile[0] - memory.base) / set_aside,
            }
        )
    return rows


def quantile_interval(ordered: np.ndarray, q: float, level: float = 0.95) -> tuple[float, float, float] | None:
    """The q-quantile of sorted f8[R] with a distribution-free interval; None when R is too small for one.

    The number of values below the true quantile is binomial(R, q), so order statistics at its quantiles cover it.
    """
    n, tail = len(ordered), (1.0 - level) / 2.0
    low, high = scipy.stats.binom.ppf([tail, 1.0 - tail], n, q).astype(int)
    if low < 1 or high >= n:
        return None
    middle = min(n - 1, int(np.ceil(n * q)) - 1)
    return float(ordered[middle]), float(ordered[low - 1]), float(ordered[high])
