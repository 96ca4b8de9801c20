"""From records to tables: metrics per run, and means with confidence intervals over the replications."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.records import iter_runs
from fluidwait.artifacts.step import Artifact
from fluidwait.base.tables import load_table
from fluidwait.experiments.experiment import Experiment, workload_of
from fluidwait.stats.metrics import metrics_table, summarise
from fluidwait.stats.stability import MARGIN, drift

CODE = imported_modules(__name__)


def metrics(experiment: Experiment, records: str) -> Artifact:
    """One row per run of a records file: its metrics, its drift and whether it is stable.

    The last two are empty where the arrival rate changes: a backlog then grows and shrinks with it.
    """

    def write(path: Path, _: str) -> None:
        table = metrics_table(records, window=experiment.window)
        if constant:
            drifts = {
                run.run_id: drift(run.columns["arrival"], run.columns["completion"]) for run in iter_runs(records)
            }
            table = table.with_columns(drift=pl.col("run_id").replace_strict(drifts, return_dtype=pl.Float64))
        else:
            table = table.with_columns(drift=pl.lit(None, pl.Float64))
        table.with_columns(stable=pl.col("drift") <= MARGIN / pl.col("requests").sqrt()).write_csv(path)

    constant = workload_of(experiment).arrivals.constant_rate
    config = {"window": experiment.window, "constant_rate": constant}
    return Artifact(write, config, CODE, rule="metrics", inputs=(records,))


def summary(experiment: Experiment, tables: Mapping[str, str]) -> Artifact:
    """One row per policy, rate and number of requests: means over the replications with 95 % confidence intervals.

    Args:
        tables: of :func:`metrics`, by policy.
    """

    def write(path: Path, _: str) -> None:
        parts, point = [], ["rate", "requests"]
        for key, table in tables.items():
            runs = load_table(table, having=[*point, "settings", "stable"], schema_overrides={"stable": pl.Boolean})
            shares = runs.group_by(point).agg(
                pl.col("stable").mean().alias("stable_share"), pl.col("settings").first().alias("settings")
            )
            rows = summarise(runs, point).join(shares, on=point, how="left", maintain_order="left")
            label = experiment.entry(key).label
            parts.append(rows.select(pl.lit(key).alias("policy"), pl.lit(label).alias("label"), pl.all()))
        pl.concat(parts).write_csv(path)

    labels = {key: experiment.entry(key).label for key in tables}
    return Artifact(write, {"labels": labels}, CODE, rule="summary", inputs=tuple(tables.values()))
