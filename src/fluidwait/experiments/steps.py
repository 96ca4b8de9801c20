"""The steps of an experiment, and those of all experiments together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.artifacts.canonical import canonical_json
from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Rule, Step, names, results_rule
from fluidwait.base.errors import ConfigError
from fluidwait.experiments import audit, bisection, boundaries, fluid_tables, parameters, summary, sweep, trace
from fluidwait.experiments.check import check_kinds, check_policy
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.kinds import Kind, figure_kinds, table_kinds
from fluidwait.experiments.setting import Setting, check_requests
from fluidwait.workload import input_files

SWEEP = Rule(
    "sweep",
    (
        "results/{scale}/{experiment}/records/{policy}.parquet",
        "results/{scale}/{experiment}/metrics/{policy}.csv",
        "results/{scale}/{experiment}/boundary/{policy}.csv",
    ),
)
"""Every run of a policy, its metrics after checks (drained, causal, Little's law), and its λ* in every replication."""

TUNED_SWEEP = Rule("tuned_sweep", ("results/{scale}/{experiment}/tuning/{policy}.csv", *SWEEP.outputs), family="sweep")
"""The same of a policy with a grid, which is searched first, on seeds of its own."""

AUDIT = results_rule("audit", "results/{scale}/{experiment}/audit.csv")
"""A sample of the runs repeated in real Vidur; it fails if any request differs."""

SUMMARY = results_rule(
    "summary", "results/{scale}/{experiment}/summary.csv", "results/{scale}/{experiment}/stability.csv"
)
"""Means over the replications with 95 % confidence intervals, and λ*, measured and predicted."""

PARAMETERS = results_rule("parameters", "results/{scale}/parameters.csv")
"""Every setting of every experiment."""

BOUNDARIES = results_rule("boundaries", "results/{scale}/boundaries.csv")
"""λ* of all experiments, and its share of the fluid bound."""


def table_rule(kind: Kind) -> Rule:
    """The rule of a kind of table."""
    return results_rule(f"table_{kind.name}", "results/{scale}/{experiment}/" + f"{kind.name}.csv", family="table")


def tuned(experiment: Experiment) -> list[str]:
    """The policies whose grid is searched."""
    return [key for key, entry in experiment.policies.items() if entry.grid is not None]


def experiment_steps(setting: Setting, scale: str, kind: str | None = None) -> list[Step]:
    """The steps of one experiment, but for :func:`thresholds`, each before those that need it.

    Args:
        kind: only the steps whose names begin with this: a job needs one, and the figures take long to import.
    """
    return [step for name, build in BUILDERS.items() if kind in (None, name) for step in build(setting, scale)]


def shared_steps(settings: Sequence[Setting], scale: str) -> list[Step]:
    """The steps of all experiments together."""
    at = {"scale": scale}
    found = []
    if settings:
        found = [thresholds(settings, scale), Step(PARAMETERS, (), at, (parameters.parameters(settings, scale),))]
    searched = [setting for setting in settings if bisection.is_searched(setting.experiment, scale)]
    if searched:
        tables = [f"{_folder(setting, scale)}/stability.csv" for setting in searched]
        found.append(Step(BOUNDARIES, (), at, (boundaries.boundaries(searched, tables),)))
        found.append(_boundaries_figure(searched, scale, found[-1]))
    return found


def _boundaries_figure(settings: list[Setting], scale: str, table: Step) -> Step:
    from fluidwait.drawing.products import figure_rule
    from fluidwait.experiments import drawing

    rule = figure_rule(
        "boundaries_figure", {"figures/{scale}/boundaries": "boundaries"}, "boundaries", "all experiments"
    )
    return Step(rule, (), {"scale": scale}, drawing.all_boundaries(settings, scale, *table.outputs))


def thresholds(settings: Sequence[Setting], scale: str) -> Step:
    """The fluid model of all experiments at once: it takes less time than starting a process for each."""
    folders = ["results/{scale}/" + setting.experiment.id for setting in settings]
    outputs = [f"{folder}/thresholds.{suffix}" for folder in folders for suffix in ("csv", "json")]
    rule = results_rule("thresholds", *outputs)
    products = tuple(product for setting in settings for product in fluid_tables.thresholds(setting, scale))
    return Step(rule, (), {"scale": scale}, products)


def _folder(setting: Setting, scale: str) -> str:
    return f"results/{scale}/{setting.experiment.id}"


def _at(setting: Setting, scale: str, **more: str) -> dict[str, str]:
    return {"scale": scale, "experiment": setting.experiment.id, **more}


def _tunings(setting: Setting, scale: str, keys: list[str]) -> dict[str, str]:
    """Tables of the grid searches of the tuned ones among these policies."""
    folder = _folder(setting, scale)
    return {key: f"{folder}/tuning/{key}.csv" for key in keys if key in tuned(setting.experiment)}


def _sweep(setting: Setting, key: str, scale: str) -> Step:
    folder, tuning = _folder(setting, scale), _tunings(setting, scale, [key]).get(key)
    products = (
        *([sweep.tuning(setting, key, scale)] if tuning else []),
        sweep.records(setting, key, scale, tuning),
        summary.metrics(setting.experiment, f"{folder}/records/{key}.parquet"),
        bisection.boundary(setting, key, scale, tuning),
    )
    rule = TUNED_SWEEP if tuning else SWEEP

    def check() -> None:
        check_requests(setting, scale)
        check_policy(setting, key, scale)

    return Step(rule, (setting.experiment.id, key), _at(setting, scale, policy=key), products, check=check)


def _sweeps(setting: Setting, scale: str) -> list[Step]:
    return [_sweep(setting, key, scale) for key in setting.experiment.policies]


def _audit(setting: Setting, scale: str) -> list[Step]:
    sizes = setting.experiment.scale(scale)
    if not (sizes.audit_requests > 0 and setting.experiment.audit_share > 0):
        return []
    tunings = _tunings(setting, scale, list(setting.experiment.policies))
    return [Step(AUDIT, (setting.experiment.id,), _at(setting, scale), (audit.audit(setting, scale, tunings),))]


def _trace(setting: Setting, scale: str) -> list[Step]:
    """The memory of one replication against time, a table for each policy that is asked for."""
    keys, name = setting.experiment.traced(), setting.experiment.id
    if not keys:
        return []
    tunings = _tunings(setting, scale, keys)
    rule = Rule(f"trace_{name}", tuple("results/{scale}/" + f"{name}/trace/{key}.csv" for key in keys), family="trace")
    products = tuple(trace.trace(setting, key, scale, tunings.get(key)) for key in keys)
    return [Step(rule, (name,), _at(setting, scale), products)]


def _summary(setting: Setting, scale: str) -> list[Step]:
    keys, folder = list(setting.experiment.policies), _folder(setting, scale)
    metrics, searched = ({key: f"{folder}/{part}/{key}.csv" for key in keys} for part in ("metrics", "boundary"))
    products = (
        summary.summary(setting.experiment, metrics),
        boundaries.stability(setting, metrics, searched),
    )
    return [Step(SUMMARY, (setting.experiment.id,), _at(setting, scale), products)]


def _tables(setting: Setting, scale: str) -> list[Step]:
    return [table_step(setting, kind, scale) for kind in table_kinds(setting.experiment)]


def table_step(setting: Setting, kind: Kind, scale: str) -> Step:
    """The step of one kind of table.

    Raises:
        ConfigError: the kind's file lists or returns what it may not.
    """
    folder = _folder(setting, scale)
    inputs = kind.inputs(folder, list(setting.experiment.policies))
    if f"{folder}/{kind.name}.csv" in inputs:
        raise ConfigError(f"{kind.code}: INPUTS: a table cannot be made from itself")
    code = imported_modules(kind.code, *kind.listed("CODE"))
    if hasattr(kind.module, "identity"):
        identity = _plain(kind, kind.module.identity(setting, scale))
    else:
        identity = _everything(setting, scale)
        code = tuple(sorted({*code, *parameters.code([setting])}))
    product = Artifact(
        lambda path, _: _write_table(kind, kind.module.table(setting, scale, Path(folder)), path),
        identity,
        code,
        rule=kind.name,
        inputs=names([*kind.listed("FILES"), *input_files(setting.workload), *inputs]),
    )
    check = partial(check_kinds, setting, scale, "tables")
    return Step(table_rule(kind), (setting.experiment.id, kind.name), _at(setting, scale), (product,), check=check)


def _plain(kind: Kind, identity: Any) -> dict[str, Any]:
    try:
        canonical_json(identity)
    except TypeError as error:
        raise ConfigError(f"{kind.code}: identity must return plain values: {error}") from None
    if not isinstance(identity, dict):
        raise ConfigError(f"{kind.code}: identity must return a dict, found {type(identity).__name__}")
    return identity


def _write_table(kind: Kind, table: Any, path: Path) -> None:
    if not isinstance(table, pl.DataFrame):
        raise ConfigError(f"{kind.code}: table must return a polars.DataFrame, found {type(table).__name__}")
    try:
        table.write_csv(path)
    except pl.exceptions.ComputeError as error:
        raise ConfigError(f"{kind.code}: table: {error}") from None


def _everything(setting: Setting, scale: str) -> dict[str, Any]:
    return {"scale": scale} | parameters.settings_identity(setting, scale)


def _figures(setting: Setting, scale: str) -> list[Step]:
    """All figures of an experiment, drawn in one process: to start it takes longer than to draw one."""
    from fluidwait.drawing.products import figure_rule
    from fluidwait.experiments import drawing

    name, kinds = setting.experiment.id, figure_kinds(setting.experiment)
    if not kinds:
        return []
    stems = {"figures/{scale}/" + f"{name}_{kind.name}": kind.name for kind in kinds}
    rule = figure_rule(f"figures_{name}", stems, "figure", name, family="figures")
    products = [product for kind in kinds for product in drawing.figure(setting, kind, scale, _folder(setting, scale))]
    check = partial(check_kinds, setting, scale, "figures")
    return [Step(rule, (name,), _at(setting, scale), tuple(products), check=check)]


BUILDERS = {
    "sweep": _sweeps,
    "audit": _audit,
    "trace": _trace,
    "summary": _summary,
    "table": _tables,
    "figures": _figures,
}
"""Steps of an experiment by the first part of their names."""
