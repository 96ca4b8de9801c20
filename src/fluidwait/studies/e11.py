"""E11, the configuration: instances, cases (a policy on an instance), and which cases make which table."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from fluidwait.base.errors import nearest
from fluidwait.base.models import Strict, Words
from fluidwait.experiments.experiment import KEY, MOST_REPLICATIONS
from fluidwait.fluid.safety import base_memory
from fluidwait.fluid.segments import continuation_probabilities, segment_prompts
from fluidwait.studies.instance import Instance, Offered, offer
from fluidwait.studies.study import Study

LONGEST, MOST_RUNS = 1e8, 1_000_000
"""Horizon, full batches of WAIT, and runs to one: beyond, a study does not end."""

UNLIMITED = 2**40
"""KV tokens that no run ever fills."""

GAP_TABLES = ("fcfs_gap", "unknown_gap")


class Case(Strict):
    """One policy on one instance.

    ``fcfs`` admits whatever fits, in order of arrival, and batches every resident. ``fcfs_reserving`` admits only what
    fits with the longest output of the instance reserved, so it never evicts.
    """

    label: Words = Field(description="name in figures and tables")
    instance: str = Field(description="key under instances")
    policy: Literal["wait", "nested_wait", "fcfs", "fcfs_reserving"]
    slack: float = Field(0.0, ge=0, allow_inf_nan=False, description="relative distance of the rates from equality")
    memory: Literal["full_batch", "unlimited"] = Field(
        "full_batch", description="capacity C: that of WAIT's full batch (M* without slack), or no limit"
    )
    boundaries: list[int] | None = Field(None, description="of Nested WAIT, output tokens")
    thresholds: list[list[int]] | None = Field(None, description="of Nested WAIT; each list is run on its own")
    horizon_share: float = Field(1.0, gt=0, le=1, description="of the scale's horizon, for costly cases")
    replications_share: float = Field(1.0, gt=0, le=1, description="of the scale's replications")

    @model_validator(mode="after")
    def _nested_has_segments(self):
        given = self.boundaries is not None and bool(self.thresholds)
        if given != (self.policy == "nested_wait") or (self.boundaries is None) != (self.thresholds is None):
            raise ValueError("boundaries and thresholds belong to nested_wait, which needs both")
        segments = len(self.boundaries or ())
        if any(len(n) != segments or min(n) < 1 for n in self.thresholds or ()):
            raise ValueError(f"thresholds: each list needs {segments} whole numbers >= 1")
        return self


class OverflowRuns(Strict):
    """One horizon of the overflow table."""

    iterations: float = Field(gt=0, le=LONGEST, description="horizon, full batches of WAIT")
    runs: int = Field(ge=1, le=MOST_RUNS)


class Overflow(Strict):
    """Nested WAIT against its memory bound."""

    case: str = Field(description="a nested_wait case whose conditions hold strictly, with unlimited memory")
    risks: list[float] = Field(min_length=1, description="overflow probabilities delta, in (0, 1)")

    @field_validator("risks")
    @classmethod
    def _probabilities(cls, risks):
        if any(not 0 < risk < 1 for risk in risks):
            raise ValueError("must lie in (0, 1)")
        return risks


class Toy(Strict):
    """The paper's example, with prompts and outputs of one token."""

    capacity: int = Field(default=12, ge=4, description="KV tokens")
    arrivals: int = Field(default=4, ge=1, description="requests per iteration")
    decoding: int = Field(default=3, ge=1, description="requests that decode in the unbalanced start")
    waiting: int = Field(default=6, ge=1, description="requests that wait in the unbalanced start")
    iterations: int = Field(default=200, ge=20, le=1_000_000)


class E11Scale(Strict):
    """How much of E11 to run. Horizons are in iterations of a full batch of WAIT."""

    horizon: float = Field(gt=0, le=LONGEST, description="longest horizon")
    replications: int = Field(ge=2, le=MOST_REPLICATIONS)
    overflow: list[OverflowRuns] = Field(min_length=1)


class E11(Study):
    """See config/README.md for every key."""

    id: Literal["e11"]
    seed: int = Field(1, ge=0)
    first_horizon: float = Field(100.0, gt=0, allow_inf_nan=False, description="shortest horizon, iterations")
    horizons_per_decade: int = Field(2, ge=1, le=100)
    fit_decades: float = Field(3.0, gt=0, allow_inf_nan=False, description="exponents are fitted over the last decades")
    instances: dict[str, Instance]
    cases: dict[str, Case]
    scaling: dict[str, list[str]] = Field(description="parts of the scaling table, a job each: keys of cases")
    fcfs_gap: list[str]
    unknown_gap: list[str]
    overflow: Overflow
    toy: Toy = Toy()
    scales: dict[str, E11Scale]

    @model_validator(mode="after")
    def _names_exist_and_conditions_hold(self):
        for key, case in self.cases.items():
            if case.instance not in self.instances:
                raise ValueError(f"cases.{key}: instance: '{case.instance}' is not an instance")
            _check_strict(key, case, self.instances[case.instance])
        listed = [*self.fcfs_gap, *self.unknown_gap, *(key for part in self.scaling.values() for key in part)]
        for part in self.scaling:
            if not KEY.fullmatch(part):
                raise ValueError(f"scaling: '{part}': a key consists of letters, digits and _ . + -")
        for key in (*listed, self.overflow.case):
            if key not in self.cases:
                raise ValueError(f"'{key}' is not a case{nearest(key, list(self.cases))}")
        nested = self.cases[self.overflow.case]
        if nested.policy != "nested_wait" or nested.slack == 0 or nested.memory != "unlimited":
            raise ValueError("overflow.case: needs a nested_wait case with slack and unlimited memory")
        for name, scale in self.scales.items():
            if min(case.horizon_share for case in self.cases.values()) * scale.horizon <= self.first_horizon:
                raise ValueError(f"scales.{name}.horizon: every case needs one above first_horizon")
        return self

    def offered(self, case: Case) -> Offered:
        return offer(self.instances[case.instance], case.slack)

    def expected(self, case: Case) -> dict[str, float]:
        """The exponents of zeta T in the theorem's upper bounds, by quantity."""
        return {"gap": -1.0, "latency": 0.0, "ttft": 0.0} if case.slack else {"gap": -0.5, "latency": 0.5, "ttft": 0.5}


def _check_strict(key: str, case: Case, instance: Instance) -> None:
    """With slack Nested WAIT's conditions must hold strictly: Delta T(n) < n_1 / rate and p_k < n_k / n_{k-1} < 1."""
    if case.policy != "nested_wait":
        return
    offered = offer(instance, case.slack)
    ends = np.array(case.boundaries)
    if np.any(np.diff(ends, prepend=0) <= 0) or ends[-1] < offered.law.output.max():
        raise ValueError(f"cases.{key}: boundaries: must increase and reach the longest output")
    if case.slack == 0:
        return
    p = continuation_probabilities(offered.law, ends)
    for n in map(np.array, case.thresholds or ()):
        full = instance.d0 + instance.d1 * base_memory(n, ends, segment_prompts(offered.law, ends))
        ratio = n[1:] / n[:-1]
        if not (full < n[0] / offered.rate and np.all((p < ratio) & (ratio < 1))):
            raise ValueError(
                f"cases.{key}: thresholds: {n.tolist()} do not meet the conditions: need Delta T(n) = {full:.4g} < "
                f"n_1 / rate = {n[0] / offered.rate:.4g} and p_k = {p.round(4).tolist()} < n_k / n_(k-1) = "
                f"{ratio.round(4).tolist()} < 1"
            )
