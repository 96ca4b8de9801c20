"""The times of a recorded trace: in which unit they are, and at which rate its requests came."""

from __future__ import annotations

import numpy as np

from fluidwait.base.errors import ConfigError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of the units in which a trace may give its arrivals."""

UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EPOCH = (1e9, 4.2e9)  # s since 1970 of the years 2001 to 2103
SLOWEST, FASTEST = 0.1, 1e4  # requests/s that a trace without a unit may have; one in ms reads as 1/1000 of its rate


def recorded_rate(arrival: np.ndarray) -> float:
    """Requests/s of arrivals in s."""
    span = arrival[-1] - arrival[0]
    if span <= 0:
        raise ConfigError(
            f"lengths.file: all requests of the trace arrive at once, of the {arrival.size} used, so they have no rate"
        )
    return (arrival.size - 1) / span


def wrong_unit(arrival: np.ndarray, unit: str | None) -> str | None:
    """Why these times cannot well be in ``unit``; None when they can. One unit for another is a factor of 1,000."""
    named = unit or "s"
    first, last = arrival[0], arrival[-1]
    if first * SECONDS[named] > EPOCH[1]:
        for other, seconds in SECONDS.items():
            if EPOCH[0] <= first * seconds <= EPOCH[1]:
                day = np.datetime64(int(first * seconds), "s").astype("datetime64[D]")
                return f"{first:.0f} is {day} in {UNITS[other]} since 1970, not {UNITS[named]} (say so: unit: {other})"
        return f"{first:g} {UNITS[named]} are no time since 1970 or a start (the units are {', '.join(SECONDS)})"
    if unit is None and last > first and not SLOWEST <= (rate := recorded_rate(arrival)) <= FASTEST:
        looks = "milliseconds" if rate < SLOWEST else "hours or days"
        hint = "unit: ms, or unit: s if they are seconds" if rate < SLOWEST else "unit: s, if they are seconds"
        return f"as seconds they are {rate:.3g} requests/s on average, which looks like {looks} (say it: {hint})"
    return None
