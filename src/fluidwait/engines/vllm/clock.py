"""The plug-in's clock: one place, so that a test can put another in."""

from __future__ import annotations

import time


def monotonic() -> float:
    """Seconds on the monotonic clock, on which everything here is timed."""
    return time.monotonic()


def wall() -> float:
    """Seconds since 1970, as the front end stamps arrivals."""
    return time.time()


def sleep(seconds: float) -> None:
    time.sleep(seconds)
