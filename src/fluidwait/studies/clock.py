"""E10: the policies under vLLM's rules on the calibrated device.

Arrival rates are shares of the rate that the calibrated fluid model carries within the engine's limits: requests in
service, tokens of a batch, KV memory. All policies meet the same requests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl

from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError, named
from fluidwait.engines.core import context_of
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.learning import Learned, check_learns
from fluidwait.engines.presets import most_tokens, semantics_of
from fluidwait.engines.simulator import Run, simulate
from fluidwait.engines.v1.limits import plans
from fluidwait.engines.v1.rules import NULL_BLOCK, Rules
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.e10 import E10
from fluidwait.studies.loads import METRICS, LoadCase, measured, read_runs, with_changes
from fluidwait.studies.study import table_product
from fluidwait.workload import Requests, check_fits, input_files

POINT = ("workload", "share", "rate", "policy")
"""What replications have in common."""

COUNTS = ("preemptions", "recomputed")
"""Of a whole run, per request: times that it lost its KV cache, and tokens that were computed and dropped."""


class Case(LoadCase):
    """A load in vLLM's scheduler.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the memory.
    """

    study: E10

    def __init__(self, study: E10, load: str):
        super().__init__(study, load)
        rules: Any = semantics_of(study.semantics, self.hardware)
        self.rules: Rules = rules._replace(blocks=self.blocks - NULL_BLOCK)
        where = f"{self.where}: workload {self.workload.name}"
        check_fits(self.law, most_tokens(self.rules), where, self.hardware.max_model_len)

    @cached_property
    def bound(self) -> float:
        """requests/s that the calibrated fluid model carries within the engine's limits."""
        rules = self.rules
        capacity = float(rules.blocks * rules.block_size)
        return calibrated_boundary(
            self.law, self.times, capacity, token_budget=float(rules.tokens), cap=float(rules.requests)
        ).rate

    def knobs(self, key: str, rate: float) -> Any:
        """The policy's knobs at this rate; where the plug-in learns them, that."""
        if self.study.policies[key].learns:
            return Learned()
        linear, error = self.hardware.linear, self.workload.prediction_error
        return self.policy(key).prepare(context_of(self.law, rate, self.times, linear, self.rules, error))

    def drawn(self, rate: float, replication: int, scale: str) -> Requests:
        """The requests of a run, the same for every policy."""
        return self.requests(rate, replication, self.study.requests_at(self.load, scale), scale)

    def arguments(self, key: str, rate: float, requests: Requests) -> tuple:
        """Of either engine."""
        return requests, self.policy(key), self.knobs(key, rate), self.times, self.rules


class Point(NamedTuple):
    """One run."""

    policy: str
    share: float
    replication: int


def points(study: E10, load: str, scale: str) -> Iterator[Point]:
    """All runs of a load."""
    everything = itertools.product(study.served(load), study.shares_at(scale), range(study.scale(scale).replications))
    return itertools.starmap(Point, everything)


def check(study: E10, scale: str) -> None:
    """Find what no run could serve, before any is made.

    Raises:
        ConfigError: one line: study, load, policy, what is wrong.
    """
    for load in study.loads:
        case = Case(study, load)
        with named(f"study {study.id}: loads.{load}"):
            rates = [case.rate(share) for share in study.shares_at(scale)]
            requests = case.drawn(rates[-1], 0, scale)
            case.drawn(rates[0], 0, scale)
        for key in study.served(load):
            with named(f"study {study.id}: policies.{key} on loads.{load}"):
                _check_policy(case, key, rates, requests)


def _check_policy(case: Case, key: str, rates: list[float], requests: Requests) -> None:
    policy = case.policy(key)
    for rate in dict.fromkeys((rates[0], rates[-1])):
        knobs = case.knobs(key, rate)
        if isinstance(knobs, Learned):
            check_learns(policy, case.rules)
        else:
            check_requests(requests, policy, knobs, reservation(policy, knobs, case.rules))
            if plans(policy, knobs) and not math.isfinite(policy.max_wait):
                raise ConfigError(
                    "max_wait: must be finite: nobody tells vLLM's scheduler that no more requests will come"
                )


# --- runs ----------------------------------------------------------------------------------------------------------


def runs(study: E10, load: str, scale: str) -> Artifact:
    """The runs of one load: a row for each policy, rate and replication."""
    case = Case(study, load)
    return table_product(
        lambda: pl.DataFrame([_row(case, point, scale) for point in points(study, load, scale)]),
        identity=identity(case, scale),
        module=__name__,
        rule="study_runs",
        inputs=names(input_files(case.workload)),
    )


def identity(case: Case, scale: str) -> dict[str, Any]:
    """Everything besides the inputs that decides the runs of a load."""
    policies = [case.policy(key) for key in case.study.served(case.load)]
    found = case.study.identity(case.load, scale, "semantics") | {"rules": case.rules._asdict()}
    return found | case.identity(scale, policies)


def _row(case: Case, point: Point, scale: str) -> dict[str, Any]:
    rate = case.rate(point.share)
    requests = case.drawn(rate, point.replication, scale)
    run = simulate(*case.arguments(point.policy, rate, requests))
    row = {"workload": case.load, "share": point.share, "rate": rate, "policy": point.policy}
    row |= {"replication": point.replication, "requests": len(requests.arrival)}
    row |= measured(requests, run, case.study.window)
    return row | dict(zip(COUNTS, (run.evictions.mean(), _recomputed(run)), strict=True))


def _recomputed(run: Run) -> float:
    assert run.recomputed is not None  # known under vLLM's rules
    return float(run.recomputed.mean())


# --- what they say --------------------------------------------------------------------------------------------------


def latency(study: E10, tables: tuple[str, ...], scale: str) -> Artifact:
    """Means over the replications, with 95 % intervals, and what differs from the baseline on the same requests.

    ``low`` and ``high`` belong to ``mean``. ``change`` is mean / mean of the baseline - 1, its mean over replications
    with the interval ``change_low`` to ``change_high``; ``change_p99`` and ``change_ttft`` are the same of those.

    Args:
        tables: of :func:`runs`, all loads.
    """
    labels, loads = study.labels, study.load_labels
    columns = (*POINT, "replication", *METRICS, *COUNTS)
    return table_product(
        lambda: summarised(read_runs(tables, columns), study.baseline, labels, loads),
        identity={"baseline": study.baseline, "labels": labels, "loads": loads, "scale": scale},
        module=__name__,
        rule="study_latency",
        inputs=tables,
    )


def summarised(rows: pl.DataFrame, baseline: str, labels: dict[str, str], loads: dict[str, str]) -> pl.DataFrame:
    """The table of :func:`latency`; ``labels`` and ``loads`` name policies and loads by their keys."""
    base = rows.filter(pl.col("policy") == baseline)
    changes = {name: f"change_{name}" for name in ("mean", "p99", "ttft")}
    both = with_changes(rows, base, ["workload", "rate", "replication"], changes)
    found = []
    for point, part in both.group_by(POINT, maintain_order=True):
        mean, change = mean_interval(part["mean"]), mean_interval(part["change_mean"])
        row = dict(zip(POINT, point, strict=True))
        row |= {"load": loads[row["workload"]], "label": labels[row["policy"]]}
        row |= {"is_baseline": row["policy"] == baseline, "replications": part.height}
        row |= {name: part[name].mean() for name in (*METRICS, *COUNTS)}
        row |= {"low": mean.low, "high": mean.high}
        row |= {"change": change.mean, "change_low": change.low, "change_high": change.high}
        found.append(row | {name: part[name].mean() for name in ("change_p99", "change_ttft")})
    return pl.DataFrame(found)
