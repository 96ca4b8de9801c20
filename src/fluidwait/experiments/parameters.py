"""The settings of every experiment in one table: a row per experiment and policy, defaults written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.experiments.experiment import PolicyEntry
from fluidwait.experiments.setting import Setting
from fluidwait.experiments.sweep import identity, knobs_of
from fluidwait.workload import input_files


def code(settings: Iterable[Setting]) -> tuple[str, ...]:
    """Modules that compute the table: policies know their settings and derive their knobs."""
    own = sorted({file for setting in settings for file in setting.own_policies()})
    return (*imported_modules(__name__, *own), "fluidwait.policies.*")


def parameters(settings: Sequence[Setting], scale: str) -> Artifact:
    """The table.

    Columns: experiment, title; workload, arrivals, rates (requests/s), requests (of a run), replications, window (share
    measured), seed; hardware, memory_margin, capacity_tokens (C), blocks, block_size (tokens), watermark_blocks,
    semantics, eviction, time_model; policy, label, name (of the rule); grid_size (combinations tried per rate, 1: not
    tuned), learns (where any does), tuning_seed, tuning_requests, tuning_replications; then a column per setting of any
    policy, in the units of config/README.md. A setting that a policy does not have is empty, a limit that it does not
    apply is ``none``, ``fluid: 9`` is 9 from the calibrated fluid model, and a tuned one lists what is tried.
    """
    return Artifact(
        lambda path, _: table(settings, scale).write_csv(path),
        {"experiments": {setting.experiment.id: settings_identity(setting, scale) for setting in settings}},
        code(settings),
        rule="parameters",
        inputs=names(sorted({path for setting in settings for path in input_files(setting.workload)})),
    )


def settings_identity(setting: Setting, scale: str) -> dict[str, Any]:
    """Everything that decides the rows of an experiment."""
    experiment = setting.experiment
    whole = {key: identity(setting, key, scale) for key in experiment.policies}
    hardware = {"hardware": config_hash(setting.hardware.model_dump(mode="json"))}  # its timing alone is long
    labels = {key: entry.label for key, entry in experiment.policies.items()}
    return {"title": experiment.title, "labels": labels, "policies": {k: v | hardware for k, v in whole.items()}}


def table(settings: Sequence[Setting], scale: str) -> pl.DataFrame:
    """The table of :func:`parameters`."""
    rows = [
        _shared(setting, scale) | _policy(setting, key, scale)
        for setting in settings
        for key in setting.experiment.policies
    ]
    return pl.from_dicts(
        [{name: _text(value) for name, value in row.items()} for row in rows], infer_schema_length=None
    )


def _shared(setting: Setting, scale: str) -> dict[str, Any]:
    experiment, hardware, semantics = setting.experiment, setting.hardware, setting.semantics
    rates = experiment.rates_at(scale)
    return {
        "experiment": experiment.id,
        "title": experiment.title,
        "workload": setting.workload.name,
        "arrivals": setting.workload.arrivals.process,
        "rates": f"{rates[0]:g} to {rates[-1]:g} ({len(rates)})" if len(rates) > 2 else rates,
        "requests": experiment.horizons_at(scale),
        "replications": experiment.scale(scale).replications,
        "window": experiment.window,
        "seed": experiment.seed_at(scale),
        "hardware": hardware.name,
        "memory_margin": hardware.memory_margin,
        "capacity_tokens": semantics.blocks * semantics.block_size,
        "blocks": semantics.blocks,
        "block_size": semantics.block_size,
        "watermark_blocks": semantics.watermark,
        "semantics": experiment.semantics,
        "eviction": "recompute" if semantics.recompute else "restart",
        "time_model": experiment.time_model,
    }


def _policy(setting: Setting, key: str, scale: str) -> dict[str, Any]:
    experiment, entry, sizes = setting.experiment, setting.experiment.entry(key), setting.experiment.scale(scale)
    policy = setting.policy(key, entry.combinations()[0])
    tuning = {
        "tuning_seed": experiment.tuning_seed_at(scale),
        "tuning_requests": sizes.tuning_requests,
        "tuning_replications": sizes.tuning_replications,
    }
    knobs = knobs_of(setting, key, policy, experiment.rates_at(scale)[0])
    values = policy.settings.model_dump()
    return {
        "policy": key,
        "label": entry.label,
        "name": policy.name,
        "grid_size": len(entry.combinations()),
        **({"learns": True} if entry.learns else {}),
        **(tuning if entry.grid else dict.fromkeys(tuning)),
        **{name: _setting(name, value, entry, policy.resolved(knobs, name)) for name, value in values.items()},
    }


def _setting(name: str, value: Any, entry: PolicyEntry, derived: Any) -> Any:
    """What a policy's setting is; numbers that follow from the fluid model and not from the rate are given as well."""
    if entry.grid and name in entry.grid:
        return f"tuned: {_text(entry.grid[name])}"
    if value == "fluid" and np.isscalar(derived):
        return f"fluid: {derived!s}"
    return "none" if value is None else value


def _text(value: Any) -> str | None:
    """Lists as words, booleans in lower case, None for an empty cell."""
    if isinstance(value, list):
        return " ".join(str(_text(item)) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return None if value is None else str(value)
