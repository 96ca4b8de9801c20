"""Metrics of a run, the laws that every run must obey, and confidence intervals over replications.

Times in seconds, rates per second. A run is a mapping of columns of equal length N, as in
:data:`fluidwait.artifacts.records.REQUESTS`: ``arrival``, ``first_token``, ``completion``, ``output_tokens`` and
``evictions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy  # its parts are loaded when first used

from fluidwait.artifacts.records import iter_runs
from fluidwait.base.errors import FluidwaitError

Columns = Mapping[str, np.ndarray]

WINDOW = 0.5
"""Share of the requests, in the middle by arrival order, over which metrics are taken."""

LITTLE_TOLERANCE = 1e-9
"""Largest relative difference of the two sides of Little's law; both are exact but for rounding."""


class RunError(FluidwaitError):
    """A run that lost a request or breaks a law that every run obeys: a fault of the engine, never of the user."""


class Metrics(NamedTuple):
    """Metrics of one run. Latencies are of the requests that arrive in the window.

    The *window* is the middle share of the requests by arrival order; t_a and t_b are the arrival times of its first
    and last request. Latency is completion - arrival, TTFT is first_token - arrival, and the time per output token
    (TPOT) of a request with two output tokens or more is (completion - first_token) / (output_tokens - 1).
    """

    requests: int  # in the whole run
    mean_latency: float  # s
    median_latency: float  # s
    p95_latency: float  # s, linear interpolation between order statistics
    p99_latency: float  # s
    mean_ttft: float  # s
    mean_tpot: float  # s per token; NaN when no request of the window has two output tokens
    completion_rate: float  # requests/s: completions in (t_a, t_b] / (t_b - t_a); NaN when t_b = t_a
    token_throughput: float  # decode tokens/s of the requests completing in (t_a, t_b]; evicted attempts never count
    mean_in_system: float  # requests, time average over the whole run
    evictions: int  # in the whole run
    evictions_per_request: float  # the paper's restart rate
    makespan: float  # s, first arrival to last completion


def window_slice(requests: int, window: float = WINDOW) -> slice:
    """The middle ``window`` share (0 < window <= 1) of ``requests`` requests in arrival order; never empty.

    Raises:
        ValueError: the share is outside (0, 1], or there are no requests.
    """
    if not 0 < window <= 1 or requests < 1:
        raise ValueError(f"no window of share {window} in {requests} requests")
    skipped = min(int(requests * (1 - window) / 2), (requests - 1) // 2)
    return slice(skipped, requests - skipped)


def run_metrics(columns: Columns, *, window: float = WINDOW) -> Metrics:
    """Metrics of a run whose every request completed; checks :func:`check_run` first.

    Raises:
        RunError: the run is not drained, or breaks causality or Little's law.
    """
    mean_in_system = check_run(columns)
    order = np.argsort(columns["arrival"], kind="stable")
    part = order[window_slice(len(order), window)]
    arrival, completion, output = columns["arrival"], columns["completion"], columns["output_tokens"]
    latency = completion[part] - arrival[part]
    median, p95, p99 = np.percentile(latency, [50, 95, 99])
    start, end = arrival[part[0]], arrival[part[-1]]
    inside = (completion > start) & (completion <= end)  # of all requests: what the server delivers in this time span
    return Metrics(
        requests=len(order),
        mean_latency=float(latency.mean()),
        median_latency=float(median),
        p95_latency=float(p95),
        p99_latency=float(p99),
        mean_ttft=float((columns["first_token"][part] - arrival[part]).mean()),
        mean_tpot=_mean_tpot(columns, part),
        completion_rate=_per_second(int(np.count_nonzero(inside)), end - start),
        token_throughput=_per_second(int(output[inside].sum()), end - start),
        mean_in_system=mean_in_system,
        evictions=int(columns["evictions"].sum()),
        evictions_per_request=float(columns["evictions"].mean()),
        makespan=float(completion.max() - arrival.min()),
    )


def check_run(columns: Columns) -> float:
    """Check that nothing was lost, that causes precede effects, and Little's law; return the mean number in system.

    Raises:
        RunError: naming the first request at fault, or the two sides of Little's law.
    """
    arrival, first, completion = columns["arrival"], columns["first_token"], columns["completion"]
    if len(arrival) == 0:
        raise RunError("run without requests")
    unfinished = ~(np.isfinite(arrival) & np.isfinite(first) & np.isfinite(completion))
    if unfinished.any():
        share = f"{np.count_nonzero(unfinished)} of {len(arrival)} requests"
        raise RunError(f"run not drained: {share} never completed, the first is {_name(columns, unfinished)}")
    for what, wrong in (
        ("its first token is not after its arrival", first <= arrival),
        ("it completes before its first token", completion < first),
    ):
        if wrong.any():
            raise RunError(f"request {_name(columns, wrong)}: {what}")
    return check_littles_law(arrival, completion)


def check_littles_law(arrival: np.ndarray, completion: np.ndarray) -> float:
    """Check L = (sum of sojourn times) / horizon over the drained horizon; return L, the mean number in system.

    L is found from the events alone: a sweep over the sorted arrivals and completions integrates the number in system.
    The identity is exact when every request that entered also left.

    Raises:
        RunError: the two sides differ by more than 1e-9 relative, or the number in system falls below zero.
    """
    times = np.concatenate([arrival, completion])
    steps = np.concatenate([np.ones(len(arrival), np.int64), -np.ones(len(completion), np.int64)])
    order = np.lexsort((-steps, times))  # at equal times arrivals first
    times, number = times[order], np.cumsum(steps[order])
    if number.min() < 0:
        raise RunError("Little's law: more completions than arrivals at some time")
    horizon = times[-1] - times[0]
    swept = float(np.sum(number[:-1] * np.diff(times)) / horizon)
    summed = float(np.sum(completion - arrival) / horizon)
    if number[-1] != 0 or not abs(swept - summed) <= LITTLE_TOLERANCE * abs(summed):
        raise RunError(f"Little's law: {swept!r} requests in system on average, sojourn times say {summed!r}")
    return swept


def metrics_table(path: str | Path, *, window: float = WINDOW) -> pl.DataFrame:
    """Metrics of every run of a requests file: one row per run with its id, configuration hash, parameters and metrics.

    Raises:
        ConfigError: the file cannot be read; see :func:`fluidwait.artifacts.records.iter_runs`.
        RunError: a run is faulty; the line names file and run.
    """
    rows = []
    for run in iter_runs(path):
        try:
            metrics = run_metrics(run.columns, window=window)
        except RunError as error:
            raise RunError(f"{path}: run {run.run_id}: {error}") from None
        rows.append({"run_id": run.run_id, "config_hash": run.config_hash, **run.parameters, **metrics._asdict()})
    return pl.DataFrame(rows, infer_schema_length=None)


class Interval(NamedTuple):
    """Mean over replications with a confidence interval and the standard deviation."""

    mean: float
    low: float
    high: float
    deviation: float  # sample standard deviation
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of an interval


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """Mean and Student-t confidence interval of independent replications.

    With one replication the bounds and the deviation are NaN; a NaN among the values makes all NaN but the count.
    For two policies under common random numbers pass the paired differences.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(list(values), dtype=np.float64)
    if len(data) == 0:
        raise ValueError("no replications")
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    deviation = float(data.std(ddof=1))
    half = float(scipy.special.stdtrit(len(data) - 1, (1 + level) / 2)) * deviation / len(data) ** 0.5
    return Interval(mean, mean - half, mean + half, deviation, len(data))


def summarise(table: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Intervals of every metric over replications: one row per value of ``by``, sorted by it.

    For each metric m the columns m (mean), m_low, m_high and m_sd; and ``replications``.
    """
    metrics = [name for name in Metrics._fields if name in table.columns and name not in by]
    rows = []
    for group, part in table.group_by(by, maintain_order=True):
        row = dict(zip(by, group, strict=True)) | {"replications": part.height}
        for name in metrics:
            interval = mean_interval(part[name])
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row[f"{name}_sd"] = interval.deviation
        rows.append(row)
    return pl.DataFrame(rows).sort(by)


def _name(columns: Columns, wrong: np.ndarray) -> int:
    index = int(np.argmax(wrong))
    return int(columns["request_id"][index]) if "request_id" in columns else index


def _mean_tpot(columns: Columns, part: np.ndarray) -> float:
    part = part[columns["output_tokens"][part] >= 2]
    if len(part) == 0:
        return np.nan
    gaps = columns["output_tokens"][part] - 1
    return float(((columns["completion"][part] - columns["first_token"][part]) / gaps).mean())


def _per_second(amount: float, seconds: float) -> float:
    return float(amount / seconds) if seconds > 0 else np.nan
