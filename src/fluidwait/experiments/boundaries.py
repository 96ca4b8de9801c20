"""Stability boundaries of an experiment's policies: measured, and predicted by the calibrated fluid model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fluidwait.experiments.experiment import Experiment, Setting, resolve
from fluidwait.experiments.stability import stability_boundary
from fluidwait.fluid import calibrated_boundary
from fluidwait.policies.contract import NO_LIMIT
from fluidwait.provenance import imported_modules, write_artifact

CODE = (*imported_modules(__name__), "fluidwait.policies.*")  # the prediction asks policies for their limits


def stability(experiment: Experiment, tables: dict[str, Path], out: Path) -> None:
    """λ* of every policy by the rule of :mod:`fluidwait.experiments.stability`, beside the predicted boundary."""
    setting = resolve(experiment)

    def write(path: Path, _: str) -> None:
        rows = []
        for key, table in tables.items():
            runs = pl.read_csv(table).filter(pl.col("requests") == pl.col("requests").max())  # the longest tell most
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
    return float(limit) if limit < NO_LIMIT else np.inf
