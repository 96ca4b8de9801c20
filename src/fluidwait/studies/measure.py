"""What the theorems speak of, read off one run at many horizons.

**Scaling.** The paper multiplies the rates by zeta and divides d0 and d1 by zeta, at a fixed horizon T and a fixed
capacity. That only changes the unit of time, so the scaled system over T is the unscaled one over zeta T; and whatever
happens up to a horizon does not depend on what arrives later. Hence one run, never drained before its last horizon,
gives every shorter horizon as well.

With H = zeta T, over the requests that have arrived by H:

* ``gap``: (decode tokens of those not completed by H) / H, tokens/s. The theorem's gap is throughput* minus (decode
  tokens of those completed by H) / H, here ``gap_plain``. The two have the same expectation, because Poisson arrivals
  offer throughput* x H tokens on average, but ``gap`` is free of the noise of the arrivals themselves, which exceeds
  the gap by orders of magnitude when there is slack. It is never negative.
* ``latency``: the mean of (min(completion, H) - arrival) / ((l'_j + 1) Delta T): time in the system up to H over the
  time that full batches of WAIT take to serve the request. Dividing by Delta T, which is Delta T / zeta in the scaled
  system, is the service normalisation. Cut at H it is the time average of the number in the system by Little's law
  (weighted by type), and needs nothing beyond the horizon.
* ``ttft``: the mean of (min(end of the prefill, H) - arrival) / Delta T; after a restart, of the last attempt.

The system starts empty. Requests in service (at most C tokens) and those below a threshold count as not completed, so
the gap has a part O(1/H) beside the queue's O(H^-1/2), and measured slopes approach -1/2 from below. Types whose
conditions hold with equality have queues that move like reflected random walks without drift, of order H^1/2.
"""

from __future__ import annotations

import numpy as np

from fluidwait.studies.instance import Offered
from fluidwait.workload import Requests

QUANTITIES = ("gap", "gap_plain", "latency", "ttft")


def horizons(first: float, last: float, per_decade: int) -> np.ndarray:
    """Equal steps on a log scale from ``first`` to ``last``, both included; the last step may be shorter."""
    decades = np.log10(last / first)
    steps = first * 10.0 ** (np.arange(int(np.floor(decades * per_decade + 1e-9)) + 1) / per_decade)
    return steps if np.isclose(steps[-1], last) else np.append(steps, last)


def at_horizons(requests: Requests, run, offered: Offered, until: np.ndarray) -> dict[str, np.ndarray]:
    """The four quantities (see the module), f8[K] each, at the horizons ``until`` f8[K] in s.

    ``run`` has completion and first_token f8[N] of ``requests``, N each, in arrival order.
    """
    rows = []
    service = (requests.output + 1) * offered.iteration_time
    for horizon in until:
        n = int(np.searchsorted(requests.arrival, horizon, side="right"))
        arrival, completion, first = requests.arrival[:n], run.completion[:n], run.first_token[:n]
        done = completion <= horizon
        tokens, finished = requests.output[:n].sum(), requests.output[:n][done].sum()
        rows.append(
            (
                (tokens - finished) / horizon,
                offered.throughput - finished / horizon,
                np.mean((np.minimum(completion, horizon) - arrival) / service[:n]) if n else 0.0,
                np.mean(np.minimum(first, horizon) - arrival) / offered.iteration_time if n else 0.0,
            )
        )
    return dict(zip(QUANTITIES, np.array(rows, dtype=np.float64).T, strict=True))
