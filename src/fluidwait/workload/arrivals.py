"""Arrival processes: every model of a workload's ``arrivals``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import Strict

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TRUNCATION = 3.0  # mean gaps; what Vidur's Poisson generator cuts its gaps at


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
