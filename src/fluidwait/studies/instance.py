"""Instances of the paper's model: request types, their WAIT thresholds, and the iteration time d0 + d1 x KV tokens.

An instance is given by its thresholds n_j; the arrival rates follow from them::

    lambda_j = n_j / ((1 + slack) Delta T(n))      Delta T(n) = d0 + d1 sum_j n_j w_j

Without slack every condition of WAIT holds with equality, and M(n) = sum_j n_j w_j is the equilibrium memory M*.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from fluidwait.base.models import Strict
from fluidwait.fluid.equilibrium import kv_work
from fluidwait.workload import MOST_REQUESTS, LengthLaw, Requests, Workload, generate, length_law


class InstanceType(Strict):
    """One request type."""

    prompt: int = Field(ge=1, description="prompt tokens")
    output: int = Field(ge=1, description="output tokens")
    threshold: int = Field(ge=1, description="n_j of WAIT; the rates follow from it")


class Instance(Strict):
    """Request types and the paper's iteration time."""

    d0: float = Field(gt=0, allow_inf_nan=False, description="s per iteration")
    d1: float = Field(ge=0, allow_inf_nan=False, description="s per KV token of the batch")
    types: list[InstanceType] = Field(min_length=1)

    @property
    def thresholds(self) -> np.ndarray:
        """n_j, i8[m]."""
        return np.array([kind.threshold for kind in self.types], dtype=np.int64)


class Offered(NamedTuple):
    """What an instance offers at some slack.

    workload        a mixture of the types with Poisson arrivals
    law             its length law
    rate            requests/s over all types
    throughput      decode tokens/s offered, sum_j lambda_j l'_j: the fluid model's throughput*
    iteration_time  s, Delta T(n): of a full batch of WAIT
    memory          KV tokens of that batch, M(n); M* without slack
    """

    workload: Workload
    law: LengthLaw
    rate: float
    throughput: float
    iteration_time: float
    memory: int

    def requests_until(self, horizon: float, seed: int, replication: int) -> Requests:
        """Every request that arrives within ``horizon`` s, and a few later ones, so that the run goes on past it."""
        expected = self.rate * horizon
        n = int(min(expected + 8.0 * np.sqrt(expected) + 50, 2.0 * MOST_REQUESTS))  # more than `generate` draws
        while True:
            drawn = generate(self.workload, n=n, rate=self.rate, seed=seed, replication=replication)
            if drawn.arrival[-1] > horizon:
                return drawn
            n *= 2  # does not change the requests already drawn


def offer(instance: Instance, slack: float = 0.0) -> Offered:
    """The workload, rates and fluid quantities of an instance; ``slack`` >= 0 is relative."""
    counts = instance.thresholds
    types = [
        {"share": float(count / counts.sum()), "prompt": kind.prompt, "output": kind.output}
        for kind, count in zip(instance.types, counts, strict=True)
    ]
    workload = Workload.model_validate(
        {"name": "instance", "lengths": {"kind": "mixture", "types": types}, "arrivals": {"process": "poisson"}}
    )
    law = length_law(workload)
    memory = int(round(counts @ kv_work(law).per_type))  # whole: 2 w_j = (l' + 1)(2 l + l') and one factor is even
    iteration_time = instance.d0 + instance.d1 * memory
    rates = counts / ((1.0 + slack) * iteration_time)
    return Offered(workload, law, float(rates.sum()), float(rates @ law.output), iteration_time, memory)
