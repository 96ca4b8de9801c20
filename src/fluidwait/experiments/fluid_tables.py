"""The fluid model's table of an experiment: equilibrium, thresholds and calibrated equilibrium at every rate."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.experiments.boundaries import fluid_bound
from fluidwait.experiments.setting import Setting
from fluidwait.fluid.calibrated import calibrated_equilibrium
from fluidwait.fluid.report import threshold_table
from fluidwait.workload import input_files

POINTS = 300
"""Rates of the fine curve of the calibrated equilibrium."""


def thresholds(setting: Setting, scale: str) -> tuple[Artifact, Artifact]:
    """The table as CSV, and the full summary as JSON.

    The summary's ``capacity`` and ``calibrated_boundary`` are of the memory in tokens, as in the paper; its
    ``fluid_bound`` (requests/s) is of the whole blocks that the engines have, as in ``boundaries.csv``.
    """
    solved = cache(lambda: _solved(setting, scale))
    recorded: dict[str, Any] = {
        "identity": fluid_identity(setting, scale),
        "inputs": names(input_files(setting.workload)),
        "code": imported_modules(__name__),
        "rule": "thresholds",
    }
    return (
        Artifact(lambda path, _: solved()[0].write_csv(path), **recorded),
        Artifact(lambda path, _: path.write_text(solved()[1], encoding="utf-8"), **recorded),
    )


def _solved(setting: Setting, scale: str) -> tuple[pl.DataFrame, str]:
    """The table, lists in a cell with spaces between, and the summary as JSON."""
    rates = setting.experiment.rates_at(scale)
    table, whole = threshold_table(setting.law, rates, setting.hardware, semantics=setting.experiment.fluid_semantics)
    whole["fluid_bound"] = fluid_bound(setting)
    whole["calibrated_curve"] = _curve(setting, rates[0], whole["calibrated_boundary"]["rate"])
    lists = [name for name, kind in table.schema.items() if isinstance(kind, pl.List)]
    flat = table.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join(" "))
    return flat, json.dumps(whole, indent=1) + "\n"


def fluid_identity(setting: Setting, scale: str) -> dict[str, Any]:
    """Everything besides inputs and code that decides the table."""
    return {
        "experiment": setting.experiment.id,
        "hardware": setting.hardware.model_dump(mode="json", exclude={"source", "fit"}),
        "workload": setting.workload.model_dump(mode="json"),
        "rates": setting.experiment.rates_at(scale),
        "semantics": setting.experiment.fluid_semantics,
        "memory": setting.semantics._asdict(),
        "time_model": setting.experiment.time_model,
    }


def _curve(setting: Setting, first: float, last: float) -> dict[str, list[float]]:
    """Memory (KV tokens) of the calibrated equilibrium on a fine grid of rates; it jumps where the staircase does."""
    rates = np.linspace(min(first, last), last, POINTS, endpoint=False).tolist()
    semantics, model = setting.experiment.fluid_semantics, setting.hardware.time_model("profile")
    states = [calibrated_equilibrium(setting.law, rate, model, semantics=semantics) for rate in rates]
    return {"rate": rates, "memory": [state.memory for state in states]}
