"""The tables of E9: is the time model right, and is the simulator."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fluidwait.artifacts.records import Run, iter_runs
from fluidwait.base.tables import load_table
from fluidwait.engines.simulator import Run as Simulated
from fluidwait.real.bundle import VALIDATION, Bundle
from fluidwait.real.pace import Clock
from fluidwait.real.replica import Simulator
from fluidwait.workload import Requests

POINT = ("variant", "policy", "share", "rate")
"""What replications have in common."""

LINEAR, PROFILE = "linear", "profile"


class Line(NamedTuple):
    """Seconds of a generation = intercept + slope x KV work, least squares."""

    intercept: float  # s
    slope: float  # s per KV token x iteration

    def at(self, work: np.ndarray) -> np.ndarray:
        return self.intercept + self.slope * work


def generations(bundle: Bundle) -> pl.DataFrame:
    """One row per batch size: measured seconds (median, smallest, largest), and those of both models."""
    table = bundle.generations().group_by("batch", "extrapolated", maintain_order=True)
    rows = table.agg(
        measured=pl.col("seconds").median(),
        lowest=pl.col("seconds").min(),
        highest=pl.col("seconds").max(),
        repeats=pl.len(),
        kv_work=pl.col("kv_work").mean(),
        iterations=pl.col("iterations").mean(),
    ).sort("batch")
    line, simulator = fit_line(rows.filter(~pl.col("extrapolated"))), Simulator(bundle)
    rows = rows.with_columns(
        pl.Series(LINEAR, line.at(rows["kv_work"].to_numpy())),
        pl.Series(PROFILE, [simulator.generation(batch) for batch in rows["batch"]]),
    )
    return rows.with_columns(
        (pl.col(name) / pl.col("measured") - 1).alias(f"{name}_error") for name in (LINEAR, PROFILE)
    )


def fit_line(rows: pl.DataFrame) -> Line:
    """The paper's linear model of a whole generation."""
    slope, intercept = np.polyfit(rows["kv_work"].to_numpy(), rows["measured"].to_numpy(), 1)
    return Line(float(intercept), float(slope))


def fit(bundle: Bundle, whole: pl.DataFrame) -> pl.DataFrame:
    """Errors of the models: of iterations from the calibration, of generations from :func:`generations`.

    Iterations of the ``other load`` took no part in the fit, nor did any like them.
    """
    rows = []
    for model, part, source in (
        (PROFILE, "held_out", "held out"),
        (PROFILE, "all_rows", "all"),
        (LINEAR, LINEAR, "all"),
    ):
        residuals = bundle.hardware().fit[part]
        rows.append({"what": "iteration", "model": model, "sample": source, **residuals})
    if bundle.target.validation is not None:
        rows.append({"what": "iteration", "model": PROFILE, "sample": "other load", **_validated(bundle)})
    for model in (LINEAR, PROFILE):
        for beyond, sample in ((False, "fitted"), (True, "extrapolated")):
            rows_of = whole.filter(pl.col("extrapolated") == beyond)
            measured, predicted = rows_of["measured"].to_numpy(), rows_of[model].to_numpy()
            rows.append({"what": "generation", "model": model, "sample": sample, **scores(measured, predicted)})
    schema = {"what": str, "model": str, "sample": str, "rows": int, "mape": float, "max_relative_error": float}
    return pl.DataFrame(rows, schema=schema | {"r2": float})


def _validated(bundle: Bundle) -> dict[str, float]:
    """Errors of the calibrated model on the load that was measured to judge it.

    Of every iteration, or of every group where iterations are told apart only in groups.
    """
    table, simulator = load_table(bundle.path(VALIDATION)), Simulator(bundle)
    table = table.with_columns(pl.Series("predicted", simulator.seconds_of(table)))
    if "group" in table.columns:
        table = table.group_by("group", maintain_order=True).agg(pl.col("seconds", "predicted").sum(), count=1)
    every = table["count"].to_numpy()
    return scores(*(np.repeat(table[name].to_numpy(), every) for name in ("seconds", "predicted")))


def scores(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    relative = np.abs(predicted / measured - 1)
    total = float(((measured - measured.mean()) ** 2).sum())
    r2 = 1 - float(((measured - predicted) ** 2).sum()) / total if total > 0 else None
    return {"rows": len(measured), "mape": relative.mean(), "max_relative_error": relative.max(), "r2": r2}


class Replayed(NamedTuple):
    """One run of the engine and the same run simulated."""

    point: dict[str, Any]
    requests: Requests
    real: Run
    log: Run
    busy: float  # s that the batches of the run took, at pace 1
    speed: float  # measured seconds of these batches over those that the time model predicts for them
    leftover: float  # the same at pace 1
    simulated: Simulated  # with the pace of the machine
    unpaced: Simulated  # on a machine as fast as in the calibration
    adjusted: Simulated  # with the pace, and iterations that take ``leftover`` times as long


def replay(bundle: Bundle) -> list[Replayed]:
    """Simulate the requests of every run under a policy that the simulator has, with its settings."""
    simulator, paces, found = Simulator(bundle), bundle.paces(), []
    batches = pl.read_parquet(bundle.path("batches.parquet")).partition_by("run_id", as_dict=True)
    for real, log in zip(bundle.runs(), iter_runs(bundle.path("log.parquet"), "iterations"), strict=True):
        point, clock = real.parameters, Clock(paces[real.run_id])
        if not bundle.target.policies[point["policy"]].simulated:
            continue
        requests = Requests(*(real.columns[c] for c in ("arrival", "prompt_tokens", "output_tokens", "kind")))
        where = (point["variant"], point["policy"], point["rate"])
        duration, predicted = log.columns["duration"], simulator.predicted(batches[real.run_id,])
        busy = clock.lasted(log.columns["start"], duration)
        found.append(
            Replayed(
                point,
                requests,
                real,
                log,
                busy,
                speed=float(duration.sum()) / predicted,
                leftover=busy / predicted,
                simulated=paced(simulator, clock, requests, where),
                unpaced=simulator.run(requests, *where),
                adjusted=paced(simulator, clock, requests, where, busy / predicted),
            )
        )
    return found


def paced(
    simulator: Simulator, clock: Clock, requests: Requests, where: tuple[str, str, float], speed: float = 1.0
) -> Simulated:
    """Simulate on a machine whose pace changes: on a clock that is even there, with arrivals moved to it and back.

    The gate's ``max_wait``, which is real time, is taken to be of that clock.
    """
    there = simulator.run(requests._replace(arrival=clock.even(requests.arrival)), *where, speed=speed)
    return there._replace(completion=clock.moments(there.completion), first_token=clock.moments(there.first_token))


def pairs(replayed: list[Replayed]) -> pl.DataFrame:
    """Every request twice: its latency (s) on the engine, and in the simulator given the same requests."""
    parts = []
    for run in replayed:
        arrival = run.requests.arrival
        own = {name: [run.point[name]] * len(arrival) for name in (*POINT, "replication")}
        times = {
            "request_id": run.real.columns["request_id"],
            "real": run.real.columns["completion"] - arrival,
            "simulated": run.simulated.completion - arrival,
            "unpaced": run.unpaced.completion - arrival,
            "adjusted": run.adjusted.completion - arrival,
            "real_ttft": run.real.columns["first_token"] - arrival,
            "simulated_ttft": run.simulated.first_token - arrival,
        }
        parts.append(pl.DataFrame(own | times))
    return pl.concat(parts)


def reality(replayed: list[Replayed], both: pl.DataFrame) -> pl.DataFrame:
    """One row per variant, policy and rate: how far the simulated latencies are from the real ones.

    ``median_error`` and ``p90_error`` are quantiles of |simulated / real - 1| over all requests of the replications,
    ``mean_error`` compares mean latencies. The simulator knows the pace of the machine from a meter, and nothing that
    was measured of the engine during the run. ``unpaced_error`` is the median when it takes the machine to be as fast
    as in the calibration. ``speed`` is how much longer the engine's batches took during the run than the calibrated
    model says for the same batches, ``leftover`` what of it the pace does not explain, and ``adjusted_error`` the
    median error when the simulator knows that as well: what is left is the schedule's.
    """
    error, unpaced, adjusted = (
        (pl.col(name) / pl.col("real") - 1).abs() for name in ("simulated", "unpaced", "adjusted")
    )
    rows = both.group_by(POINT, maintain_order=True).agg(
        requests=pl.len(),
        replications=pl.col("replication").n_unique(),
        median_error=error.median(),
        p90_error=error.quantile(0.9),
        unpaced_error=unpaced.median(),
        adjusted_error=adjusted.median(),
        real=pl.col("real").mean(),
        simulated=pl.col("simulated").mean(),
        real_ttft=pl.col("real_ttft").mean(),
        simulated_ttft=pl.col("simulated_ttft").mean(),
    )
    rows = rows.with_columns(mean_error=pl.col("simulated") / pl.col("real") - 1)
    return rows.join(_busy(replayed), on=list(POINT), how="left", maintain_order="left")


def _busy(replayed: list[Replayed]) -> pl.DataFrame:
    """Seconds in iterations, at pace 1, and their number, real and simulated, summed over the replications."""
    rows = [
        {name: run.point[name] for name in POINT}
        | {
            "real_busy": run.busy,
            "simulated_busy": run.simulated.busy,
            "real_iterations": len(run.log.columns["duration"]),
            "simulated_iterations": run.simulated.iterations,
            "real_evictions": int(run.real.columns["evictions"].sum()),
            "simulated_evictions": int(run.simulated.evictions.sum()),
            "speed": run.speed,
            "leftover": run.leftover,
            "drift_mean": run.point["drift_mean"],
            "drift_largest": run.point["drift_largest"],
        }
        for run in replayed
    ]
    grouped = pl.DataFrame(rows).group_by(POINT, maintain_order=True)
    sums = [f"{engine}_{what}" for what in ("busy", "iterations", "evictions") for engine in ("real", "simulated")]
    means = ("speed", "leftover", "drift_mean")
    return grouped.agg(pl.col(sums).sum(), pl.col(means).mean(), pl.col("drift_largest").max())
