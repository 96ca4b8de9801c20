"""Workloads that cannot be run as asked: refused before anything runs."""

from __future__ import annotations

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.workload.arrivals import PiecewiseArrivals
from fluidwait.workload.definition import Workload
from fluidwait.workload.requests import LengthLaw, Requests

LONGEST = 1e9
"""s from the first arrival to the last: times then are exact to 0.1 us, a thousandth of any iteration."""

OFF = 0.05
"""How far, as a share, the rate that a run of a piecewise profile offers may be from the one asked for."""


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
    if not isinstance(arrivals, PiecewiseArrivals) or (asked := arrivals.asked(rate)) is None:
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
