"""Products of the steps of an experiment, made alone: what a step makes together, a test makes one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fluidwait.artifacts.step import Artifact
from fluidwait.experiments import audit as audits
from fluidwait.experiments import bisection, fluid_tables, kinds, steps
from fluidwait.experiments import boundaries as tables
from fluidwait.experiments import parameters as settings_table
from fluidwait.experiments import summary as summaries
from fluidwait.experiments import sweep as sweeps
from fluidwait.experiments import trace as traces
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.setting import Setting, check_requests, resolve


def _checked(experiment: Experiment, scale: str) -> Setting:
    setting = resolve(experiment)
    check_requests(setting, scale)
    return setting


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _names(paths: Mapping[str, Path] | None) -> dict[str, str]:
    return {key: str(path) for key, path in (paths or {}).items()}


def tune(experiment: Experiment, key: str, scale: str, out: Path) -> None:
    sweeps.tuning(_checked(experiment, scale), key, scale).make(out)


def sweep(experiment: Experiment, key: str, scale: str, out: Path, tuning: Path | None = None) -> None:
    sweeps.records(_checked(experiment, scale), key, scale, _name(tuning)).make(out)


def metrics(experiment: Experiment, records: Path, out: Path) -> None:
    summaries.metrics(experiment, str(records)).make(out)


def boundary(experiment: Experiment, key: str, scale: str, out: Path, tuning: Path | None = None) -> None:
    bisection.boundary(_checked(experiment, scale), key, scale, _name(tuning)).make(out)


def summary(experiment: Experiment, tables: Mapping[str, Path], out: Path) -> None:
    summaries.summary(experiment, _names(tables)).make(out)


def stability(
    experiment: Experiment, metrics: Mapping[str, Path], out: Path, searched: Mapping[str, Path] | None = None
) -> None:
    tables.stability(resolve(experiment), _names(metrics), _names(searched)).make(out)


def boundaries(parts: list[tuple[Experiment, Path]], out: Path) -> None:
    settings = [resolve(experiment) for experiment, _ in parts]
    tables.boundaries(settings, [str(table) for _, table in parts]).make(out)


def audit(experiment: Experiment, scale: str, out: Path, tunings: Mapping[str, Path] | None = None) -> None:
    audits.audit(_checked(experiment, scale), scale, _names(tunings)).make(out)


def trace(experiment: Experiment, key: str, scale: str, out: Path, tuning: Path | None = None) -> None:
    traces.trace(_checked(experiment, scale), key, scale, _name(tuning)).make(out)


def thresholds(experiment: Experiment, scale: str, out: Path) -> None:
    """The table as ``out``, the summary beside it."""
    for product, suffix in zip(fluid_tables.thresholds(resolve(experiment), scale), (".csv", ".json"), strict=True):
        product.make(out.with_suffix(suffix))


def parameters(experiments: list[Experiment], scale: str, out: Path) -> None:
    settings_table.parameters([resolve(experiment) for experiment in experiments], scale).make(out)


def table(experiment: Experiment, kind: str, scale: str, out: Path) -> None:
    step = steps.table_step(resolve(experiment), kinds.table_kind(kind), scale)
    (product,) = step.products
    assert isinstance(product, Artifact)
    product.make(out)
