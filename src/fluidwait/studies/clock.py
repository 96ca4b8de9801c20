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
from fluidwait.base.errors import ConfigError, named, nearest
from fluidwait.base.paths import project_root
from fluidwait.base.tables import column_names, load_table
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import load_hardware
from fluidwait.engines.core import context_of
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.learning import Learned, check_learns
from fluidwait.engines.presets import most_tokens, semantics_of
from fluidwait.engines.simulator import Run, simulate
from fluidwait.engines.v1.limits import plans
from fluidwait.engines.v1.rules import NULL_BLOCK, Rules
from fluidwait.experiments.sweep import columns_of
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.policies import Policy, load_policy
from fluidwait.stats.metrics import mean_interval, run_metrics
from fluidwait.studies.e10 import E10
from fluidwait.studies.study import seed_at, table_product
from fluidwait.workload import (
    LengthLaw,
    Requests,
    Workload,
    check_fits,
    generate,
    input_files,
    length_law,
    load_workload,
)

POINT = ("workload", "share", "rate", "policy")
"""What replications have in common."""

METRICS = {
    "mean": "mean_latency",
    "p99": "p99_latency",
    "ttft": "mean_ttft",
    "tpot": "mean_tpot",
    "throughput": "completion_rate",
}
"""Columns of the tables, by the name of the metric: s, s, s, s per token, requests/s."""

COUNTS = ("preemptions", "recomputed")
"""Of a whole run, per request: times that it lost its KV cache, and tokens that were computed and dropped."""


class Case:
    """A load with everything resolved.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the memory.
    """

    def __init__(self, study: E10, load: str):
        self.study, self.load = study, load
        self.hardware = load_hardware(study.hardware)
        self.times = self.hardware.time_model("profile")
        entry = study.loads[load]
        self.workload: Workload = load_workload(entry.workload)
        self.law: LengthLaw = length_law(self.workload)
        rules: Any = semantics_of(study.semantics, self.hardware)
        blocks = entry.kv_blocks or self.hardware.kv_blocks
        if blocks > self.hardware.kv_blocks:
            raise ConfigError(
                f"study {study.id}: loads.{load}.kv_blocks: {blocks} is more than the hardware's "
                f"(nearest valid value: {self.hardware.kv_blocks})"
            )
        self.rules: Rules = rules._replace(blocks=blocks - NULL_BLOCK)
        where = f"study {study.id}: loads.{load}: workload {self.workload.name}"
        check_fits(self.law, most_tokens(self.rules), where, self.hardware.max_model_len)

    @cached_property
    def bound(self) -> float:
        """requests/s that the calibrated fluid model carries within the engine's limits."""
        rules = self.rules
        capacity = float(rules.blocks * rules.block_size)
        return calibrated_boundary(
            self.law, self.times, capacity, token_budget=float(rules.tokens), cap=float(rules.requests)
        ).rate

    def rate(self, share: float) -> float:
        """requests/s, of four digits."""
        return float(f"{share * self.bound:.4g}")

    def policy(self, key: str) -> Policy:
        curve = self.study.policies[key]
        base = load_yaml(project_root() / "config" / "policies" / f"{curve.use}.yaml")
        return load_policy(base | curve.settings, f"study {self.study.id}: policies.{key}")

    def knobs(self, key: str, rate: float) -> Any:
        """The policy's knobs at this rate; where the plug-in learns them, that."""
        if self.study.policies[key].learns:
            return Learned()
        return self.policy(key).prepare(context_of(self.law, rate, self.times, self.hardware.linear, self.rules))

    def requests(self, rate: float, replication: int, scale: str) -> Requests:
        n, seed = self.study.requests_at(self.load, scale), seed_at(self.study.seed, scale)
        return generate(self.workload, n=n, rate=rate, seed=seed, replication=replication)

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
            requests = case.requests(rates[-1], 0, scale)
            case.requests(rates[0], 0, scale)
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
    resolved = {"hardware": case.hardware.model_dump(mode="json", exclude={"source", "fit"})}
    resolved |= {"workload": case.workload.model_dump(mode="json"), "rules": case.rules._asdict()}
    settings = {key: case.policy(key).settings.model_dump(mode="json") for key in case.study.served(case.load)}
    seed = seed_at(case.study.seed, scale)
    return case.study.identity(case.load, scale) | resolved | {"settings": settings, "seed": seed}


def _row(case: Case, point: Point, scale: str) -> dict[str, Any]:
    rate = case.rate(point.share)
    requests = case.requests(rate, point.replication, scale)
    run = simulate(*case.arguments(point.policy, rate, requests))
    metrics = run_metrics(columns_of(requests, run), window=case.study.window)
    row = {"workload": case.load, "share": point.share, "rate": rate, "policy": point.policy}
    row |= {"replication": point.replication, "requests": metrics.requests}
    row |= {column: getattr(metrics, name) for column, name in METRICS.items()}
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
    labels = {key: curve.label for key, curve in study.policies.items()}
    loads = {key: load.label for key, load in study.loads.items()}
    return table_product(
        lambda: summarised(_read(tables), study.baseline, labels, loads),
        identity={"baseline": study.baseline, "labels": labels, "loads": loads, "scale": scale},
        module=__name__,
        rule="study_latency",
        inputs=tables,
    )


def summarised(rows: pl.DataFrame, baseline: str, labels: dict[str, str], loads: dict[str, str]) -> pl.DataFrame:
    """The table of :func:`latency`; ``labels`` and ``loads`` name policies and loads by their keys."""
    on = ["workload", "rate", "replication"]
    base = rows.filter(pl.col("policy") == baseline).select(*on, *METRICS)
    both = rows.join(base, on=on, suffix="_base", how="left", maintain_order="left")
    both = both.with_columns(
        (pl.col(name) / pl.col(f"{name}_base") - 1).alias(f"change_{name}") for name in ("mean", "p99", "ttft")
    )
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


def _read(tables: tuple[str, ...]) -> pl.DataFrame:
    for table in tables:
        known = column_names(table)
        for name in (*POINT, "replication", *METRICS, *COUNTS):
            if name not in known:
                raise ConfigError(f"{table}: no column '{name}'{nearest(name, known)}")
    return pl.concat([load_table(table) for table in tables])
