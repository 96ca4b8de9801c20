"""From records to tables: metrics per run, means with confidence intervals, and the stability boundaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fluidwait.experiments.experiment import Experiment, Setting, resolve
from fluidwait.experiments.metrics import metrics_table, summarise
from fluidwait.experiments.stability import MARGIN, drift, stability_boundary
from fluidwait.experiments.sweep import run_id
from fluidwait.fluid import calibrated_boundary
from fluidwait.provenance import imported_modules, write_artifact
from fluidwait.records import iter_runs

CODE = imported_modules(__name__)


def metrics(experiment: Experiment, records: Path, out: Path) -> None:
    """One row per run of a records file: its metrics, its drift and whether it is stable."""

    def write(path: Path, _: str) -> None:
        drifts = {run.run_id: drift(run.columns["arrival"], run.columns["completion"]) for run in iter_runs(records)}
        table = metrics_table(records, window=experiment.window)
        table = table.with_columns(pl.col("run_id").replace_strict(drifts, return_dtype=pl.Float64).alias("drift"))
        table.with_columns(stable=pl.col("drift") <= MARGIN / pl.col("requests").sqrt()).write_csv(path)

    write_artifact(out, write, config={"window": experiment.window}, inputs=[records], code=CODE, rule="metrics")


def summary(experiment: Experiment, tables: dict[str, Path], out: Path) -> None:
    """One row per policy and rate: means over the replications with 95 % confidence intervals."""

    def write(path: Path, _: str) -> None:
        parts = []
        for key, table in tables.items():
            runs = pl.read_csv(table)
            shares = runs.group_by("rate").agg(
                pl.col("stable").mean().alias("stable_share"), pl.col("settings").first().alias("settings")
            )
            rows = summarise(runs, ["rate"]).join(shares, on="rate", how="left", maintain_order="left")
            label = experiment.entry(key).label
            parts.append(rows.select(pl.lit(key).alias("policy"), pl.lit(label).alias("label"), pl.all()))
        pl.concat(parts).write_csv(path)

    labels = {key: experiment.entry(key).label for key in tables}
    write_artifact(out, write, config={"labels": labels}, inputs=tables.values(), code=CODE, rule="summary")


def stability(experiment: Experiment, tables: dict[str, Path], out: Path) -> None:
    """λ* of every policy by the rule of :mod:`fluidwait.experiments.stability`, beside the predicted boundary."""
    setting = resolve(experiment)

    def write(path: Path, _: str) -> None:
        rows = []
        for key, table in tables.items():
            runs = pl.read_csv(table)
            stable = {rate: part["stable"].to_list() for (rate,), part in runs.group_by("rate", maintain_order=True)}
            predicted, name = predicted_boundary(setting, key)
            star = stability_boundary(stable)
            label = experiment.entry(key).label
            row = {"policy": key, "label": label, "lambda_star": star}
            rows.append(row | {"predicted": predicted, "predicted_name": name})
        schema = {"policy": str, "label": str, "lambda_star": float, "predicted": float, "predicted_name": str}
        pl.DataFrame(rows, schema=schema).write_csv(path)

    config = {"policies": {key: experiment.entry(key).model_dump(mode="json") for key in tables}}
    write_artifact(out, write, config=config, inputs=tables.values(), code=CODE, rule="stability")


def predicted_boundary(setting: Setting, key: str) -> tuple[float | None, str]:
    """The calibrated fluid model's boundary (requests/s) under the limits of the policy, and which limit binds.

    A policy with a token budget fills every batch once it has a backlog, so full batches decide; one without is not
    bound to the largest batch. None for a tuned policy, whose settings change with the rate, and for one that keeps
    prefills and decodes in batches of their own, which is not what the fluid model balances.
    """
    if setting.experiment.entry(key).grid:
        return None, "tuned per rate"
    policy = setting.policy(key)
    if policy.name not in ("sarathi", "vllm_v1", "wait_chunked"):
        return None, "not modelled"
    knobs = policy.prepare(setting.context(setting.experiment.rates_at(next(iter(setting.experiment.scales)))[0]))
    capacity = float((setting.semantics.blocks - setting.semantics.watermark) * setting.semantics.block_size)
    if policy.name == "wait_chunked":
        limits = {"chunk": knobs.chunk, "token_budget": _finite(knobs.batch_tokens), "cap": knobs.in_service}
    else:
        limits = {"token_budget": knobs.token_budget, "cap": knobs.max_requests}
    semantics = "serving" if setting.semantics.prefill_emits else "paper"
    edge = calibrated_boundary(setting.law, setting.time_model, capacity, semantics=semantics, **limits)
    return edge.saturated_rate, edge.binding


def _finite(limit: int) -> float:
    return float(limit) if limit < 2**40 else np.inf


__all__ = ["metrics", "predicted_boundary", "run_id", "stability", "summary"]
