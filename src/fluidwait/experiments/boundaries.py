"""Tables of stability boundaries: measured, and predicted by the calibrated fluid model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.tables import load_table
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.setting import Setting
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.policies.contract import NO_LIMIT
from fluidwait.stats.metrics import mean_interval
from fluidwait.stats.stability import stability_boundary
from fluidwait.workload import input_files

SCHEMA = {
    "policy": pl.String,
    "label": pl.String,
    "lambda_star": pl.Float64,
    "lambda_star_low": pl.Float64,
    "lambda_star_high": pl.Float64,
    "replications": pl.Int64,
    "resolution": pl.Float64,
    "grid_lambda_star": pl.Float64,
    "predicted": pl.Float64,
    "predicted_name": pl.String,
}
"""Columns of ``stability.csv``; rates in requests/s."""

SHARES = {
    "workload": pl.String,
    "experiment": pl.String,
    "policy": pl.String,
    "label": pl.String,
    "lambda_star": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "fluid_bound": pl.Float64,
    "share": pl.Float64,
}
"""Columns of ``boundaries.csv``; rates in requests/s, ``share`` is lambda_star / fluid_bound."""


def code(setting: Setting) -> tuple[str, ...]:
    """Modules that compute the table of an experiment: the prediction asks its policies for their limits."""
    return (*imported_modules(__name__, *setting.own_policies()), "fluidwait.policies.*")


# --- of one experiment ---------------------------------------------------------------------------------------------


def stability(setting: Setting, tables: Mapping[str, str], searched: Mapping[str, str]) -> Artifact:
    """λ* of every policy, its 95 % interval, λ* on the sweep's grid, and the predicted boundary.

    Args:
        tables: metrics per run, by policy.
        searched: λ* per replication (:mod:`fluidwait.experiments.bisection`), by policy. Those columns stay empty where
            nothing was searched, and for a policy with a replication in which no boundary was found.
    """
    experiment = setting.experiment

    def write(path: Path, _: str) -> None:
        rows = []
        for key, table in tables.items():
            predicted, name = predicted_boundary(setting, key)
            row = {"policy": key, "label": experiment.entry(key).label} | _searched(experiment, searched.get(key))
            row |= {"grid_lambda_star": _on_the_grid(table), "predicted": predicted, "predicted_name": name}
            rows.append(row)
        pl.DataFrame(rows, schema=SCHEMA).write_csv(path)

    config = {
        "policies": {key: experiment.entry(key).model_dump(mode="json") for key in tables},
        "resolution": experiment.boundary.resolution if experiment.boundary else None,
    }
    inputs = (*tables.values(), *searched.values())
    return Artifact(write, config, code(setting), rule="stability", inputs=inputs)


def _searched(experiment: Experiment, table: str | None) -> dict[str, Any]:
    if table is None:
        return {}
    stars = load_table(table, schema={"replication": pl.Int64, "lambda_star": pl.Float64})["lambda_star"]
    if stars.is_empty():
        return {}
    row = {"replications": len(stars), "resolution": experiment.search.resolution}
    if stars.has_nulls():
        return row
    star = mean_interval(stars)
    ends = {"lambda_star_low": star.low, "lambda_star_high": star.high} if len(stars) > 1 else {}
    return row | {"lambda_star": star.mean} | ends


def _on_the_grid(metrics: str) -> float | None:
    runs = load_table(metrics, having=("rate", "requests", "stable"), schema_overrides={"stable": pl.Boolean})
    if runs["stable"].has_nulls():
        return None  # the arrival rate changes, so there is no λ*
    runs = runs.filter(pl.col("requests") == pl.col("requests").max())  # the longest tell most
    groups = runs.group_by("rate", maintain_order=True)
    return stability_boundary({rate: part["stable"].to_list() for (rate,), part in groups})


def predicted_boundary(setting: Setting, key: str) -> tuple[float | None, str]:
    """The calibrated fluid model's boundary (requests/s) under the limits of the policy, and which limit binds.

    A policy with a token budget fills every batch once it has a backlog, so full batches decide; one without is not
    bound to the largest batch. None for a tuned policy, whose settings change with the rate, for one that learns its
    limits, and for one that does not say that a backlog fills its batches, prefills beside decodes, which is what the
    fluid model balances.
    """
    if setting.experiment.entry(key).grid:
        return None, "tuned per rate"
    if setting.experiment.entry(key).learns:
        return None, "learned from the traffic"
    policy = setting.policy(key)
    if not policy.fills_batches:
        return None, "not modelled"
    rate = setting.experiment.rates_at(next(iter(setting.experiment.scales)))[0]
    limits = policy.limits(policy.prepare(setting.context(rate)))
    capacity = float((setting.semantics.blocks - setting.semantics.watermark) * setting.semantics.block_size)
    edge = calibrated_boundary(
        setting.law,
        setting.time_model,
        capacity,
        semantics=setting.experiment.fluid_semantics,
        chunk=limits.chunk if limits.chunk < NO_LIMIT else None,
        token_budget=_finite(limits.tokens),
        cap=_finite(limits.requests),
    )
    return edge.saturated_rate, edge.binding


def _finite(limit: int) -> float:
    return float(limit) if limit < NO_LIMIT else np.inf


# --- of all experiments --------------------------------------------------------------------------------------------


def boundaries(settings: Sequence[Setting], tables: Sequence[str]) -> Artifact:
    """λ* of every experiment and policy beside the fluid bound of its workload.

    Args:
        tables: ``stability.csv`` of each of the experiments.
    """

    def write(path: Path, _: str) -> None:
        pl.concat([_shares(setting, table) for setting, table in zip(settings, tables, strict=True)]).write_csv(path)

    lengths = {path for setting in settings for path in input_files(setting.workload)}
    config = {setting.experiment.id: bound_identity(setting) for setting in settings}
    return Artifact(
        write, config, imported_modules(__name__), rule="boundaries", inputs=(*tables, *names(sorted(lengths)))
    )


def fluid_bound(setting: Setting) -> float:
    """The calibrated fluid model's largest rate, requests/s: the best batch within the memory, no policy's limits."""
    capacity = float(setting.semantics.blocks * setting.semantics.block_size)
    return calibrated_boundary(
        setting.law, setting.time_model, capacity, semantics=setting.experiment.fluid_semantics
    ).rate


def bound_identity(setting: Setting) -> dict[str, Any]:
    """Everything besides inputs and code that decides the fluid bound of an experiment."""
    return {
        "hardware": setting.hardware.model_dump(mode="json", exclude={"source", "fit"}),
        "workload": setting.workload.model_dump(mode="json"),
        "semantics": setting.semantics._asdict(),
        "time_model": setting.experiment.time_model,
    }


def _shares(setting: Setting, table: str) -> pl.DataFrame:
    bound = fluid_bound(setting)
    rows = load_table(table, schema=SCHEMA).with_columns(
        workload=pl.lit(setting.workload.name),
        experiment=pl.lit(setting.experiment.id),
        low=pl.col("lambda_star_low"),
        high=pl.col("lambda_star_high"),
        fluid_bound=pl.lit(bound),
        share=pl.col("lambda_star") / bound,
    )
    return rows.select(*SHARES)
