"""What a server carries, from one long run with more arrivals than it can serve.

While a backlog waits, what the server does next does not depend on how long the backlog is. So it completes requests at
a rate of its own, and this is the stability boundary: at fewer arrivals per second a backlog shrinks, at more it grows.
docs/stability.md says for which policies that is so, and compares with the search by bisection.

Two things would blur it. Requests that end together would make it a matter of chance on which side of the window they
fall: completions count with a weight that rises from 0 and falls to 0 within it. And the requests of a window are not
the mean request, by chance or because the policy prefers short ones: the rate is compared with what the fluid model
carries of requests of exactly these lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fluidwait.stats.stability import WARM_UP
from fluidwait.workload import LengthLaw, Requests


def window_weights(time: np.ndarray, start: float, end: float) -> np.ndarray:
    """Weights (1/s) of events at these times (s): 6 (t - start) (end - t) / (end - start)^3 inside, 0 outside.

    They integrate to 1, so events at a constant rate have this rate as the sum of their weights.
    """
    inside = np.clip((time - start) / (end - start), 0.0, 1.0)
    return 6.0 * inside * (1.0 - inside) / (end - start)


def carried_share(requests: Requests, completion: np.ndarray, bound: Callable[[LengthLaw], float]) -> float:
    """Completions per second of an overloaded server, over ``bound`` of the lengths that completed.

    The window lasts from the arrival at one quarter of the requests to the last arrival.

    Args:
        requests: in order of arrival. completion: f8[N], s.
        bound: requests/s that could be carried at most of such lengths.

    Raises:
        ValueError: the requests arrive all at once.
    """
    start, end = requests.arrival[int(WARM_UP * len(requests.arrival))], requests.arrival[-1]
    if not end > start:
        raise ValueError("a window needs requests that are spread over time")
    weight = window_weights(completion, start, end)
    if not weight.any():
        return 0.0
    pairs, member = np.unique(np.column_stack([requests.prompt, requests.output]), axis=0, return_inverse=True)
    share = np.bincount(member.ravel(), weight, minlength=len(pairs))
    seen = share > 0
    prompt, output = pairs[seen].T.astype(np.float64)
    return float(weight.sum() / bound(LengthLaw(prompt, output, share[seen] / weight.sum())))
