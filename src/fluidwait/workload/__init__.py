"""Workloads: which requests arrive when, and how long their prompts and outputs are.

A workload is two laws: the joint law of (prompt, output) lengths in tokens, and the arrival process. :func:`generate`
draws from both with separate random streams, so that

- the same (seed, replication) gives the same requests to every policy and every engine,
- the first n requests do not depend on how many are drawn,
- lengths do not depend on the rate, and gaps of one rate are those of another rescaled (common random numbers).

A replayed trace draws nothing: its replications are different stretches of the file, and a rate that is asked for is
the mean rate of exactly the rows used.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, Words, parse
from fluidwait.base.paths import is_file, project_root, resolved
from fluidwait.base.tables import LARGEST, read_columns
from fluidwait.base.yaml_files import load_yaml
from fluidwait.workload.table import read_table

Tokens = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

MOST_REQUESTS = 100_000_000  # of a run: with what the simulator keeps of each about 20 GB
TRUNCATION = 3.0  # mean gaps; what Vidur's Poisson generator cuts its gaps at

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of the units in which a trace may give its arrivals."""

UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = (1e9, 4.2e9)  # s since 1970 of the years 2001 to 2103
SLOWEST, FASTEST = 0.1, 1e4  # requests/s that a trace without a unit may have; one in ms reads as 1/1000 of its rate

LONGEST = 1e9
"""s from the first arrival to the last: times then are exact to 0.1 us, a thousandth of any iteration."""

OFF = 0.05
"""How far, as a share, the rate that a run of a piecewise profile offers may be from the one asked for."""


class Requests(NamedTuple):
    """Requests in arrival order, arrays of shape (N,)."""

    arrival: np.ndarray  # float64, s, nondecreasing
    prompt: np.ndarray  # int64, tokens, >= 1
    output: np.ndarray  # int64, tokens, >= 1
    kind: np.ndarray  # int64, index of the request's type; 0 unless the lengths are a mixture


class LengthLaw(NamedTuple):
    """Joint law of the lengths: pair (prompt[i], output[i]) has probability share[i]; float64 of shape (m,)."""

    prompt: np.ndarray  # tokens
    output: np.ndarray  # tokens
    share: np.ndarray  # > 0, sums to 1


class _Support(NamedTuple):
    prompt: np.ndarray  # int64
    output: np.ndarray  # int64
    weight: np.ndarray  # float64, any positive scale


# --- lengths --------------------------------------------------------------------------------------------------------


class FixedLengths(Strict):
    """Every request has the same lengths."""

    kind: Literal["fixed"]
    prompt: Tokens
    output: Tokens

    def support(self) -> _Support:
        return _Support(np.array([self.prompt]), np.array([self.output]), np.ones(1))


class RequestType(Strict):
    """One type of a mixture: its share of the arrivals and its lengths in tokens."""

    share: Positive
    prompt: Tokens
    output: Tokens


class MixtureLengths(Strict):
    """Each request is independently of type j with probability share_j."""

    kind: Literal["mixture"]
    types: Annotated[tuple[RequestType, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> MixtureLengths:
        total = sum(t.share for t in self.types)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of the types must sum to 1, found {total:.12g}")
        return self

    def support(self) -> _Support:
        prompt, output = (np.array([getattr(t, name) for t in self.types]) for name in ("prompt", "output"))
        return _Support(prompt, output, np.array([t.share for t in self.types]))


class TableLengths(Strict):
    """Lengths drawn from a joint histogram (:mod:`fluidwait.workload.table`), optionally cut at longest lengths."""

    kind: Literal["table"]
    file: str
    max_prompt: Tokens | None = None
    max_output: Tokens | None = None

    def support(self) -> _Support:
        table = read_table(project_root() / self.file, self.max_prompt, self.max_output)
        return _Support(table.prompt, table.output, table.count.astype(np.float64))


class TraceLengths(Strict):
    """A recorded list of requests: replayed in order, or resampled with replacement."""

    kind: Literal["trace"]
    file: str

    def support(self) -> _Support:
        columns = read_columns(project_root() / self.file, {"prompt": 1, "output": 1})
        pairs, count = np.unique(np.column_stack([columns["prompt"], columns["output"]]), axis=0, return_counts=True)
        return _Support(pairs[:, 0], pairs[:, 1], count.astype(np.float64))

    def recording(self, unit: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrivals (s, the first at 0), prompts and outputs (tokens) in the order of the file.

        Args:
            unit: of the file's arrivals, a key of :data:`SECONDS`; None: seconds, if they look like seconds.

        Raises:
            ConfigError: the file is unusable or has no ``arrival`` column, its arrivals go back in time, or they are
                not times in this unit by all appearances.
        """
        path = project_root() / self.file
        columns = read_columns(path, {"prompt": 1, "output": 1}, ("arrival",))
        arrival = columns["arrival"]
        back = np.flatnonzero(np.diff(arrival) < 0)
        if back.size:
            earlier, later = arrival[back[0]], arrival[back[0] + 1]
            raise ConfigError(f"{path}: column 'arrival' must not decrease, but {later} follows {earlier}")
        if fault := _wrong_unit(arrival, unit):
            raise ConfigError(f"{path}: column 'arrival': {fault}")
        return (arrival - arrival[0]) * SECONDS[unit or "s"], columns["prompt"], columns["output"]


Lengths = Annotated[FixedLengths | MixtureLengths | TableLengths | TraceLengths, Field(discriminator="kind")]


# --- arrivals -------------------------------------------------------------------------------------------------------


class Renewal(Strict):
    """Independent gaps ``unit_gap / rate``; the first request arrives after the first gap."""

    constant_rate: ClassVar[bool] = True

    rate: Positive | None = None  # requests/s; a rate given to `generate` replaces it

    def unit_gaps(self, random: np.random.Generator, n: int) -> np.ndarray:
        """n gaps at rate 1 (s)."""
        raise NotImplementedError

    def mean_unit_gap(self) -> float:
        return 1.0

    def times(self, random: np.random.Generator, n: int, rate: float | None) -> np.ndarray:
        gaps = self.unit_gaps(random, n)
        return np.cumsum(gaps, out=gaps) / self._rate(rate)

    def mean_rate(self, rate: float | None, n: int | None = None) -> float:
        return self._rate(rate) / self.mean_unit_gap()

    def _rate(self, rate: float | None) -> float:
        chosen = self.rate if rate is None else rate
        if chosen is None:
            raise ConfigError("arrivals.rate: not set; write it in the workload file or give a rate")
        return chosen


class PoissonArrivals(Renewal):
    """Exponential gaps of mean 1/rate."""

    process: Literal["poisson"]

    def unit_gaps(self, random: np.random.Generator, n: int) -> np.ndarray:
        return random.standard_exponential(n)


class TruncatedPoissonArrivals(Renewal):
    """Exponential gaps cut at 3/rate, as Vidur's generator draws them: mean gap (1 - e^-3)/rate, true rate 1.052 rate.

    With the same seed its gaps are those of ``poisson``, cut.
    """

    process: Literal["poisson_truncated"]

    def unit_gaps(self, random: np.random.Generator, n: int) -> np.ndarray:
        return np.minimum(random.standard_exponential(n), TRUNCATION)

    def mean_unit_gap(self) -> float:
        return -float(np.expm1(-TRUNCATION))


class GammaArrivals(Renewal):
    """Gamma gaps of mean 1/rate and coefficient of variation ``cv``; cv = 1 is Poisson, above 1 burstier."""

    process: Literal["gamma"]
    cv: Annotated[float, Field(ge=0.001, le=100)]

    def unit_gaps(self, random: np.random.Generator, n: int) -> np.ndarray:
        return random.gamma(self.cv**-2, self.cv**2, n)


class DeterministicArrivals(Renewal):
    """One request every 1/rate seconds."""

    process: Literal["deterministic"]

    def unit_gaps(self, random: np.random.Generator, n: int) -> np.ndarray:
        return np.ones(n)


class RateSegment(Strict):
    """A constant rate (requests/s, or on any scale) up to time ``until`` (s), from the end of the segment before it."""

    until: Positive
    rate: NonNegative


class PiecewiseArrivals(Strict):
    """Poisson arrivals of piecewise constant rate; after the last segment its rate continues, or the profile repeats.

    Exact by time rescaling: with Λ(t) the integral of the rate, arrivals are Λ⁻¹ of a Poisson process of rate 1.
    ``rate`` is the mean rate over the segments, requests/s: the segments then give the shape alone. Without it their
    rates are requests/s as they stand.
    """

    constant_rate: ClassVar[bool] = False

    process: Literal["piecewise"]
    segments: Annotated[tuple[RateSegment, ...], Field(min_length=1)]
    repeat: bool = False
    rate: Positive | None = None

    @model_validator(mode="after")
    def _segments_make_sense(self) -> PiecewiseArrivals:
        ends = [s.until for s in self.segments]
        for before, after in zip(ends, ends[1:], strict=False):
            if after <= before:
                raise ValueError(f"'until' must increase from segment to segment, but {after:g} follows {before:g}")
        if self.repeat and not any(s.rate > 0 for s in self.segments):
            raise ValueError("at least one segment needs a rate above 0")
        if not self.repeat and self.segments[-1].rate == 0:
            raise ValueError("the last segment's rate continues for ever, so it must be above 0 (or set repeat: true)")
        return self

    def profile(self, rate: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Knots of Λ and its slopes: times (s) and Λ there, shape (segments + 1,); rates (requests/s), (segments,)."""
        rates = np.array([s.rate for s in self.segments])
        knots = np.array([0.0, *(s.until for s in self.segments)])
        count = np.append(0.0, np.cumsum(np.diff(knots) * rates))
        wanted = self.asked(rate)
        scale = 1.0 if wanted is None else wanted * knots[-1] / count[-1]
        return knots, count * scale, rates * scale

    def asked(self, rate: float | None) -> float | None:
        """The mean rate asked for, requests/s; None when the segments' own rates stand."""
        return self.rate if rate is None else rate

    def times(self, random: np.random.Generator, n: int, rate: float | None) -> np.ndarray:
        knots, count, rates = self.profile(rate)
        target = np.cumsum(random.standard_exponential(n))  # Λ(arrival)
        periods, target = np.divmod(target, count[-1]) if self.repeat else (0.0, target)
        # "right" steps over segments of rate 0, into which no arrival falls
        into = np.searchsorted(count[1:-1], target, side="right")
        times = periods * knots[-1] + knots[into] + (target - count[into]) / rates[into]
        return np.maximum.accumulate(times)  # rounding at the seams must not reorder

    def expected(self, time: np.ndarray, rate: float | None = None) -> np.ndarray:
        """Λ(time): expected number of arrivals up to each time (s)."""
        knots, count, rates = self.profile(rate)
        periods, time = np.divmod(time, knots[-1]) if self.repeat else (0.0, np.asarray(time))
        beyond = np.maximum(time - knots[-1], 0.0) * rates[-1]
        return periods * count[-1] + np.interp(time, knots, count) + beyond

    def mean_rate(self, rate: float | None, n: int | None = None) -> float:
        """Over the segments, or over the time in which n requests are expected."""
        knots, count, rates = self.profile(rate)
        if n is None:
            return float(count[-1] / knots[-1])
        whole = np.ceil(n / count[-1]) - 1 if self.repeat else 0.0  # periods; the last one may be whole as well
        rest = n - whole * count[-1]
        into = np.searchsorted(count[1:-1], rest, side="left")
        more = (rest - count[into]) / rates[into] if rates[into] > 0 else 0.0  # rounding may point behind the last one
        return float(n / (whole * knots[-1] + knots[into] + more))


class TraceArrivals(Strict):
    """The arrivals recorded in the trace that also gives the lengths, in ``unit``.

    They are stretched until the rows used have mean rate ``rate`` (requests/s), when that is given.
    """

    constant_rate: ClassVar[bool] = False

    process: Literal["trace"]
    rate: Positive | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None


Arrivals = Annotated[
    PoissonArrivals
    | TruncatedPoissonArrivals
    | GammaArrivals
    | DeterministicArrivals
    | PiecewiseArrivals
    | TraceArrivals,
    Field(discriminator="process"),
]


# --- the workload ---------------------------------------------------------------------------------------------------


class Workload(Strict):
    """A named workload, one file of ``config/workloads``. File names in it are relative to the project folder."""

    name: Words
    lengths: Lengths
    arrivals: Arrivals

    @model_validator(mode="after")
    def _replay_needs_a_trace(self) -> Workload:
        if self.arrivals.process == "trace" and self.lengths.kind != "trace":
            raise ValueError(
                f"arrivals 'trace' replays the file of lengths 'trace', but lengths are '{self.lengths.kind}'"
            )
        return self


def load_workload(path_or_name: str | Path) -> Workload:
    """Read a workload file, or the one called ``config/workloads/<name>.yaml`` in the project folder.

    ``lengths.file`` is looked for beside the workload file, then in the project folder. It is kept relative to the
    project folder when it lies inside, so that a workload reads the same on every machine.

    Raises:
        ConfigError: one line; unknown names get the nearest one.
    """
    path = _workload_path(path_or_name)
    data = load_yaml(path)
    return parse(Workload, _with_found_file(data, path), path)


def input_files(workload: Workload) -> list[Path]:
    """Files whose contents the workload depends on, absolute."""
    file = getattr(workload.lengths, "file", None)
    return [] if file is None else [project_root() / file]


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
        seed, replication: >= 0; together they name the random streams. A replayed trace uses none: its replication r
            is the r-th of its ``stretches``.
        stretches: equal parts of a replayed trace, each of which gives the n requests at its beginning.

    Raises:
        ConfigError: no rate, a bad argument, an unusable file, or a replayed trace with too few rows.
    """
    _check_arguments(workload, n, rate, seed, replication)
    if isinstance(workload.arrivals, TraceArrivals):
        return _replay(workload, n, rate, replication, stretches)
    gaps, lengths = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, replication]).spawn(2))
    with _named(workload):
        arrival = workload.arrivals.times(gaps, n, rate)
        support = workload.lengths.support()
    check_span(arrival[-1], n, rate, f"workload {workload.name}: rate")
    index = _draw(support.weight, n, lengths)
    kind = index if isinstance(workload.lengths, MixtureLengths) else np.zeros(n, dtype=np.int64)
    return Requests(arrival, support.prompt[index], support.output[index], kind)


def length_law(workload: Workload) -> LengthLaw:
    """The exact joint law of (prompt, output) that :func:`generate` draws from.

    One pair for fixed lengths; one per type, in order, for a mixture (equal pairs are not merged); the rows of a
    table; the distinct pairs of a trace with their frequencies over the whole file (also when it is replayed).

    Raises:
        ConfigError: the file of a table or a trace is unusable.
    """
    with _named(workload):
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
    with _named(workload):
        if isinstance(workload.arrivals, TraceArrivals):
            wanted = workload.arrivals.rate if rate is None else rate
            if wanted is not None:
                return wanted
            whole = workload.lengths.recording(workload.arrivals.unit)[0]
            return _recorded_rate(whole[:n] if whole[:n][-1] > whole[0] else whole)
        return workload.arrivals.mean_rate(rate, n)


def is_random(workload: Workload) -> bool:
    """Whether replications differ: not when requests of one kind come at equal distances."""
    support = workload.lengths.support()
    pairs = np.unique(np.column_stack([support.prompt, support.output]), axis=0)
    return workload.arrivals.process != "deterministic" or len(pairs) > 1


def rows_used(workload: Workload, n: int, replication: int = 0, stretches: int = 1) -> tuple[int, int, int]:
    """First and last row of a replayed trace that :func:`generate` uses, from 1 on, and the number of its rows.

    Raises:
        ConfigError: the trace is unusable or has too few rows.
    """
    with _named(workload):
        size = len(workload.lengths.recording(workload.arrivals.unit)[0])
        rows = _rows(workload, size, n, replication, stretches)
    return rows.start + 1, rows.stop, size


def check_offered(workload: Workload, n: int, rate: float | None, where: str) -> None:
    """Refuse a run of a piecewise profile that offers another rate than the one asked for, if one is.

    Over whole passes of the profile the mean rate is the one asked for. A run that ends within its first segments, or
    goes on after the last one, has theirs.

    Args:
        where: start of the message.

    Raises:
        ConfigError: the rates differ by more than the share :data:`OFF`; with the nearest number of requests of which
            that is not true.
    """
    arrivals = workload.arrivals
    asked = arrivals.asked(rate) if isinstance(arrivals, PiecewiseArrivals) else None
    if asked is None:
        return
    offered, (knots, count, _) = arrivals.mean_rate(rate, n), arrivals.profile(rate)
    if abs(offered / asked - 1) <= OFF:
        return
    passes = max(round(n / count[-1]), 1) if arrivals.repeat else 1
    hint = "" if arrivals.repeat or n <= count[-1] else ", or repeat: true"
    raise ConfigError(
        f"{where}: {n} requests last {n / offered:.4g} s of a profile of {knots[-1]:g} s and would come at "
        f"{offered:.4g} requests/s, where {asked:g} are asked for (nearest valid number of requests: "
        f"{max(round(passes * count[-1]), 1)}{hint})"
    )


def check_span(last: float, n: int, rate: float | None, where: str) -> None:
    """Refuse arrivals so late that float64 is too coarse for the times between two iterations.

    Args:
        last: arrival of the last of n requests, s.
        rate: that was asked for, requests/s.
        where: start of the message.

    Raises:
        ConfigError: it is later than :data:`LONGEST`.
    """
    if last <= LONGEST:
        return
    hint = "" if rate is None else f" (nearest valid value: {rate * (last / LONGEST):.4g})"
    raise ConfigError(
        f"{where}: {n} requests would last {last:.4g} s, but times are exact enough up to {LONGEST:g} s only{hint}"
    )


def check_fits(
    law_or_requests: LengthLaw | Requests, capacity_tokens: float, where: str, max_model_len: float = np.inf
) -> None:
    """Refuse lengths that no empty server could hold, or that the model does not take.

    Args:
        capacity_tokens: prompt + output tokens of KV cache that memory holds.
        where: start of the message, the file or experiment the lengths come from.
        max_model_len: longest prompt + output of the model, tokens.

    Raises:
        ConfigError: one line with the longest request, how many are too long, and the longest output that would fit.
    """
    most = int(min(capacity_tokens, max_model_len))
    need = law_or_requests.prompt + law_or_requests.output
    worst = int(np.argmax(need))
    if need[worst] <= most:
        return
    prompt, output = int(law_or_requests.prompt[worst]), int(law_or_requests.output[worst])
    room = most - prompt
    hint = f"longest output that fits: {room}" if room >= 1 else f"longest prompt that fits: {most - 1}"
    held = f"memory holds {most}" if capacity_tokens <= max_model_len else f"max_model_len of the hardware is {most}"
    share = getattr(law_or_requests, "share", np.full(need.shape, 1 / need.size))
    many = f"; {100 * share[need > most].sum():.3g} % of the requests are too long" if need.size > 1 else ""
    raise ConfigError(
        f"{where}: a request of {prompt} prompt and {output} output tokens needs {prompt + output} tokens of KV cache, "
        f"but {held} ({hint}{many})"
    )


# --- inside ---------------------------------------------------------------------------------------------------------


def _draw(weight: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """n independent indices with probabilities proportional to ``weight``, by inversion."""
    edges = np.cumsum(weight)
    index = np.searchsorted(edges, random.random(n) * edges[-1], side="right")
    return np.minimum(index, weight.size - 1)  # a product that rounds up to the last edge


def _replay(workload: Workload, n: int, rate: float | None, replication: int, stretches: int) -> Requests:
    with _named(workload):
        arrival, prompt, output = workload.lengths.recording(workload.arrivals.unit)
        rows = _rows(workload, arrival.size, n, replication, stretches)
        arrival = arrival[rows] - arrival[rows.start]
        wanted = workload.arrivals.rate if rate is None else rate
        if wanted is not None:
            arrival = arrival * (_recorded_rate(arrival) / wanted)
    check_span(arrival[-1], n, wanted, f"workload {workload.name}: rate")
    return Requests(arrival, prompt[rows], output[rows], np.zeros(n, dtype=np.int64))


def _rows(workload: Workload, size: int, n: int, replication: int, stretches: int) -> slice:
    """The n rows of a trace at the beginning of one of its stretches, which are equally long and do not overlap."""
    file = workload.lengths.file
    if not replication < stretches:
        raise ConfigError(f"{file}: replication {replication}, but the trace is cut into {stretches} stretch(es) only")
    part = size // stretches
    if n > part:
        many = "" if stretches == 1 else f" in each of {stretches} stretches"
        hint = "" if stretches == 1 or n > size else f" (nearest valid number of stretches: {size // n})"
        raise ConfigError(f"{file}: asked for {n} requests{many}, but the trace has {size}{hint}")
    return slice(replication * part, replication * part + n)


def _recorded_rate(arrival: np.ndarray) -> float:
    span = arrival[-1] - arrival[0]
    if span <= 0:
        raise ConfigError(
            f"lengths.file: all requests of the trace arrive at once, of the {arrival.size} used, so they have no rate"
        )
    return (arrival.size - 1) / span


def _wrong_unit(arrival: np.ndarray, unit: str | None) -> str | None:
    """Why these times cannot well be in ``unit``; None when they can. One unit for another is a factor of 1,000."""
    named = unit or "s"
    first, last = arrival[0], arrival[-1]
    if first * SECONDS[named] > EPOCH[1]:
        for other, seconds in SECONDS.items():
            if EPOCH[0] <= first * seconds <= EPOCH[1]:
                day = np.datetime64(int(first * seconds), "s").astype("datetime64[D]")
                return f"{first:.0f} is {day} in {UNITS[other]} since 1970, not {UNITS[named]} (say so: unit: {other})"
        return f"{first:g} {UNITS[named]} are no time since 1970 or a start (the units are {', '.join(SECONDS)})"
    if unit is None and last > first and not SLOWEST <= (rate := _recorded_rate(arrival)) <= FASTEST:
        looks = "milliseconds" if rate < SLOWEST else "hours or days"
        hint = "unit: ms, or unit: s if they are seconds" if rate < SLOWEST else "unit: s, if they are seconds"
        return f"as seconds they are {rate:.3g} requests/s on average, which looks like {looks} (say it: {hint})"
    return None


@contextmanager
def _named(workload: Workload) -> Iterator[None]:
    """Put the workload's name in front of a ConfigError raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"workload {workload.name}: {error}") from None


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


def _workload_path(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    folder = project_root() / "config" / "workloads"
    found = folder / f"{path}.yaml"
    if not is_file(found):
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ConfigError(f"workload '{path}': no such file {found}{nearest(str(path), names)}")
    return found


def _with_found_file(data: dict[str, Any], source: Path) -> dict[str, Any]:
    """``data`` with ``lengths.file`` resolved, see :func:`load_workload`."""
    lengths = data.get("lengths")
    if not isinstance(lengths, dict) or not isinstance(lengths.get("file"), str):
        return data
    root, file = project_root(), lengths["file"]
    for folder in (source.parent, root):
        if is_file(folder / file):
            found = resolved(folder / file)
            break
    else:
        there = [
            p.name for folder in (source.parent / file, root / file) for p in folder.parent.glob("*") if is_file(p)
        ]
        hint = nearest(Path(file).name, difflib.get_close_matches(Path(file).name, there, n=1, cutoff=0.5))
        raise ConfigError(f"{source}: lengths.file: no file '{file}' beside this file or in the project folder{hint}")
    inside = found.is_relative_to(resolved(root))
    name = found.relative_to(resolved(root)).as_posix() if inside else str(found)
    return data | {"lengths": lengths | {"file": name}}
