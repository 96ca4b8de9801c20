"""Drawing the requests of a workload, and what their law and their rate are.

The streams of random numbers, of the arrivals, the lengths and the predictions, come from the seed and the replication.
"""

from __future__ import annotations

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.workload.arrivals import TraceArrivals
from fluidwait.workload.definition import Workload, named
from fluidwait.workload.lengths import MixtureLengths
from fluidwait.workload.limits import check_span
from fluidwait.workload.recording import recorded_rate
from fluidwait.workload.requests import LengthLaw, Requests

MOST_REQUESTS = 100_000_000  # of a run: with what the simulator keeps of each about 20 GB


def generate(
    workload: Workload,
    *,
    n: int,
    rate: float | None = None,
    seed: int,
    replication: int = 0,
    stretches: int = 1,
) -> Requests:
    """Draw the first n requests of a workload.

    Args:
        n: number of requests, >= 1.
        rate: mean rate offered, requests/s; replaces ``arrivals.rate``. Scales the profile of piecewise arrivals, and
            stretches the rows of a replayed trace that are used.
        seed, replication: >= 0; together they name the random streams. A replayed trace uses none but that of its
            predictions: its replication r is the r-th of its ``stretches``.
        stretches: equal parts of a replayed trace, each of which gives the n requests at its beginning.

    Raises:
        ConfigError: no rate, a bad argument, an unusable file, or a replayed trace with too few rows.
    """
    _check_arguments(workload, n, rate, seed, replication)
    if isinstance(workload.arrivals, TraceArrivals):
        return _told(workload, _replay(workload, n, rate, replication, stretches), _streams(seed, replication)[2])
    gaps, lengths, errors = _streams(seed, replication)
    with named(workload):
        arrival = workload.arrivals.times(gaps, n, rate)
        support = workload.lengths.support()
    check_span(arrival[-1], n, rate, f"workload {workload.name}: rate")
    index = _draw(support.weight, n, lengths)
    kind = index if isinstance(workload.lengths, MixtureLengths) else np.zeros(n, dtype=np.int64)
    drawn = Requests(arrival, support.prompt[index], support.output[index], kind)
    return _told(workload, drawn, errors, int(support.output.max()))


def _streams(seed: int, replication: int) -> list[np.random.Generator]:
    """Random numbers of the arrivals, the lengths and the errors of predictions, independent of each other."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence([seed, replication]).spawn(3)]


def _told(workload: Workload, drawn: Requests, errors: np.random.Generator, longest: int | None = None) -> Requests:
    """The requests with what their clients allow and what is predicted of them.

    Args:
        longest: output of the workload's lengths, tokens; None: to be looked up.
    """
    n = len(drawn.output)
    with named(workload):
        most = workload.allowed_output(longest or int(workload.lengths.support().output.max()))
    predicted = np.zeros(n, dtype=np.int64)
    if workload.predictions is not None:
        factor = np.exp(workload.predictions.error * errors.standard_normal(n))
        predicted = np.clip(np.rint(drawn.output * factor), 1, most).astype(np.int64)
    return drawn._replace(max_output=np.full(n, most), predicted=predicted)


def length_law(workload: Workload) -> LengthLaw:
    """The exact joint law of (prompt, output) that :func:`generate` draws from.

    One pair for fixed lengths; one per type, in order, for a mixture (equal pairs are not merged); the rows of a
    table; the distinct pairs of a trace with their frequencies over the whole file (also when it is replayed).

    Raises:
        ConfigError: the file of a table or a trace is unusable.
    """
    with named(workload):
        support = workload.lengths.support()
    return LengthLaw(
        support.prompt.astype(np.float64), support.output.astype(np.float64), support.weight / support.weight.sum()
    )


def mean_rate(workload: Workload, rate: float | None = None, n: int | None = None) -> float:
    """True arrivals per second when ``rate`` is asked for: 1.052 rate with truncated Poisson arrivals.

    For a piecewise profile the mean over its segments, or over the time of n requests. For a trace ``rate``, or the
    recorded one of its first n rows (all without), (rows - 1)/(last - first arrival).

    Raises:
        ConfigError: no rate is given or set, or the trace is unusable.
    """
    with named(workload):
        if isinstance(workload.arrivals, TraceArrivals):
            wanted = workload.arrivals.rate if rate is None else rate
            if wanted is not None:
                return wanted
            whole = workload.replayed.recording(workload.arrivals.unit)[0]
            return recorded_rate(whole[:n] if whole[:n][-1] > whole[0] else whole)
        return workload.arrivals.mean_rate(rate, n)


def is_random(workload: Workload) -> bool:
    """Whether replications differ: not when requests of one kind come at equal distances and errors are none."""
    if workload.prediction_error:
        return True
    support = workload.lengths.support()
    pairs = np.unique(np.column_stack([support.prompt, support.output]), axis=0)
    return workload.arrivals.process != "deterministic" or len(pairs) > 1


def rows_used(workload: Workload, n: int, replication: int = 0, stretches: int = 1) -> tuple[int, int, int]:
    """First and last row of a replayed trace that :func:`generate` uses, from 1 on, and the number of its rows.

    Raises:
        ConfigError: the trace is unusable or has too few rows.
    """
    with named(workload):
        size = len(_recording(workload)[0])
        rows = _rows(workload, size, n, replication, stretches)
    return rows.start + 1, rows.stop, size


def _recording(workload: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    unit = workload.arrivals.unit if isinstance(workload.arrivals, TraceArrivals) else None
    return workload.replayed.recording(unit)


def _draw(weight: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """n independent indices with probabilities proportional to ``weight``, by inversion."""
    edges = np.cumsum(weight)
    index = np.searchsorted(edges, random.random(n) * edges[-1], side="right")
    return np.minimum(index, weight.size - 1)  # a product that rounds up to the last edge


def _replay(workload: Workload, n: int, rate: float | None, replication: int, stretches: int) -> Requests:
    with named(workload):
        arrival, prompt, output = _recording(workload)
        rows = _rows(workload, arrival.size, n, replication, stretches)
        arrival = arrival[rows] - arrival[rows.start]
        wanted = workload.arrivals.rate if rate is None else rate
        if wanted is not None:
            arrival = arrival * (recorded_rate(arrival) / wanted)
        blocks = workload.replayed.blocks()[rows]
    check_span(arrival[-1], n, wanted, f"workload {workload.name}: rate")
    return Requests(arrival, prompt[rows], output[rows], np.zeros(n, dtype=np.int64), blocks)


def _rows(workload: Workload, size: int, n: int, replication: int, stretches: int) -> slice:
    """The n rows of a trace at the beginning of one of its stretches, which are equally long and do not overlap."""
    file = workload.replayed.file
    if not replication < stretches:
        raise ConfigError(f"{file}: replication {replication}, but the trace is cut into {stretches} stretch(es) only")
    part = size // stretches
    if n > part:
        many = "" if stretches == 1 else f" in each of {stretches} stretches"
        hint = "" if stretches == 1 or n > size else f" (nearest valid number of stretches: {size // n})"
        raise ConfigError(f"{file}: asked for {n} requests{many}, but the trace has {size}{hint}")
    return slice(replication * part, replication * part + n)


def _check_arguments(workload: Workload, n: int, rate: float | None, seed: int, replication: int) -> None:
    if n < 1:
        raise ConfigError(f"workload {workload.name}: n: must be at least 1 request, found {n}")
    if n > MOST_REQUESTS:
        raise ConfigError(f"workload {workload.name}: n: must be at most {MOST_REQUESTS} requests, found {n}")
    if rate is not None and not (0 < rate < np.inf):
        raise ConfigError(f"workload {workload.name}: rate: must be above 0 requests/s and finite, found {rate}")
    for name, value in (("seed", seed), ("replication", replication)):
        if value < 0:
            raise ConfigError(f"workload {workload.name}: {name}: must be at least 0, found {value}")
