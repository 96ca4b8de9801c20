"""A load of E10 or E12 with everything resolved, what a run of it is measured by, and comparisons on equal requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import project_root
from fluidwait.base.tables import column_names, load_table
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import load_hardware
from fluidwait.engines.simulator import Run
from fluidwait.experiments.sweep import columns_of
from fluidwait.policies import Policy, load_policy
from fluidwait.stats.metrics import run_metrics
from fluidwait.studies.served import Served
from fluidwait.studies.study import seed_at
from fluidwait.workload import LengthLaw, Requests, Workload, generate, length_law, load_workload

METRICS = {
    "mean": "mean_latency",
    "p99": "p99_latency",
    "ttft": "mean_ttft",
    "tpot": "mean_tpot",
    "throughput": "completion_rate",
}
"""Columns of the tables, by the name of the metric: s, s, s, s per token, requests/s."""

KEPT = 64
"""Draws of requests that are kept: all of a load, so that its policies do not draw them again."""


class LoadCase:
    """What every engine needs to know of a load.

    Raises:
        ConfigError: a file is missing or wrong, or there is less memory on the hardware.
    """

    def __init__(self, study: Served, load: str):
        self.study, self.load = study, load
        self.hardware = load_hardware(study.hardware)
        self.times = self.hardware.time_model("profile")
        entry = study.loads[load]
        self.workload: Workload = load_workload(entry.workload)
        self.law: LengthLaw = length_law(self.workload)
        self.blocks: int = entry.kv_blocks or self.hardware.kv_blocks
        self.where = f"study {study.id}: loads.{load}"
        if self.blocks > self.hardware.kv_blocks:
            raise ConfigError(
                f"{self.where}.kv_blocks: {self.blocks} is more than the hardware's "
                f"(nearest valid value: {self.hardware.kv_blocks})"
            )
        self._drawn = lru_cache(KEPT)(generate)
        self._files: dict[Path, dict[str, Any]] = {}

    @property
    def bound(self) -> float:
        """requests/s of which the arrival rates are shares."""
        raise NotImplementedError

    def rate(self, share: float) -> float:
        """requests/s, of four digits."""
        return float(f"{share * self.bound:.4g}")

    def policy(self, key: str) -> Policy:
        """A policy of the study."""
        return self.loaded(self.study.policies[key], f"policies.{key}")

    def loaded(self, entry: Any, where: str, changes: dict[str, Any] | None = None) -> Policy:
        """The policy of an entry of the study that stands at ``where``, with further ``changes`` of its settings."""
        file = project_root() / "config" / "policies" / f"{entry.use}.yaml"
        if file not in self._files:
            self._files[file] = load_yaml(file)
        return load_policy(self._files[file] | entry.settings | (changes or {}), f"study {self.study.id}: {where}")

    def requests(self, rate: float, replication: int, n: int, scale: str, workload: Workload | None = None) -> Requests:
        """The first n requests of a replication, of the load's workload or another."""
        seed = seed_at(self.study.seed, scale)
        return self._drawn(workload or self.workload, n=n, rate=rate, seed=seed, replication=replication)

    def identity(self, scale: str, policies: Sequence[Policy]) -> dict[str, Any]:
        """What files besides the study's decide its runs."""
        return {
            "hardware": self.hardware.model_dump(mode="json", exclude={"source", "fit"}),
            "workload": self.workload.model_dump(mode="json"),
            "settings": [policy.settings.model_dump(mode="json") for policy in policies],
            "seed": seed_at(self.study.seed, scale),
        }


def measured(requests: Requests, run: Run, window: float) -> dict[str, float]:
    """The metrics of a run, by the columns of :data:`METRICS`."""
    metrics = run_metrics(columns_of(requests, run), window=window)
    return {column: getattr(metrics, name) for column, name in METRICS.items()}


def with_changes(rows: pl.DataFrame, base: pl.DataFrame, on: list[str], change: dict[str, str]) -> pl.DataFrame:
    """``rows`` with what differs from ``base`` in the run that agrees in ``on``, as a share: value / its value - 1.

    Args:
        change: names of the new columns, by the column compared.
    """
    other = base.select(*on, *(pl.col(name).alias(f"{name}_base") for name in change))
    both = rows.join(other, on=on, how="left", maintain_order="left")
    changes = ((pl.col(name) / pl.col(f"{name}_base") - 1).alias(new) for name, new in change.items())
    return both.with_columns(changes).drop(f"{name}_base" for name in change)


def read_runs(tables: tuple[str, ...], columns: Sequence[str]) -> pl.DataFrame:
    """Tables of runs, one under the other.

    Raises:
        ConfigError: one lacks a column.
    """
    for table in tables:
        known = column_names(table)
        for name in columns:
            if name not in known:
                raise ConfigError(f"{table}: no column '{name}'{nearest(name, known)}")
    return pl.concat([load_table(table) for table in tables], how="diagonal_relaxed")
