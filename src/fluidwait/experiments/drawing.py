"""The figures of an experiment, and the one of all experiments, as products of a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fluidwait.artifacts.step import Artifact
from fluidwait.base.errors import ConfigError
from fluidwait.drawing.products import figure_products
from fluidwait.experiments import boundaries_figure
from fluidwait.experiments.experiment import replayed_rows
from fluidwait.experiments.kinds import Kind
from fluidwait.experiments.setting import Setting


def described(setting: Setting, scale: str, kind: Kind) -> dict[str, Any]:
    """What a kind of figure knows of an experiment: id, title, labels in the order of drawing, scale, its arrivals."""
    experiment = setting.experiment
    keys = getattr(kind.module, "policies", lambda experiment: list(experiment.policies))(experiment)
    if not isinstance(keys, list) or not set(keys) <= set(experiment.policies):
        raise ConfigError(f"{kind.code}: policies must return a list of the experiment's policies, found {keys!r}")
    rows = replayed_rows(experiment, setting.workload, scale)
    return {
        "id": experiment.id,
        "title": experiment.title,
        "labels": {key: experiment.entry(key).label for key in keys},
        "scale": scale,
        "window": experiment.window,
        "constant_rate": setting.workload.arrivals.constant_rate,
        "replayed": None if rows is None else _replayed(rows),
    }


def _replayed(rows: dict[str, Any]) -> str:
    first = ", ".join(f"{start} to {end}" for start, end in rows["used"])
    return f"rows {first} of the {rows['rows']} of the trace, {rows['left_out']} left out"


def figure(setting: Setting, kind: Kind, scale: str, folder: str) -> tuple[Artifact, ...]:
    """One kind of figure of an experiment whose tables are in ``folder``."""
    about = described(setting, scale, kind)
    results = Path(folder)
    return figure_products(
        lambda: kind.module.make(results, about),
        lambda: kind.module.caption(results, about),
        identity={"figure": kind.name, "experiment": about},
        inputs=kind.inputs(folder, list(about["labels"])),
        code=kind.code,
        rule="figure",
    )


def boundary_sizes(setting: Setting, scale: str) -> dict[str, int]:
    """How much a search for λ* runs."""
    replications = setting.experiment.scale(scale).replications
    return {"requests": setting.experiment.boundary_requests_at(scale), "replications": replications}


def all_boundaries(settings: list[Setting], scale: str, table: str) -> tuple[Artifact, ...]:
    """The figure of ``boundaries.csv``."""
    sizes = {setting.experiment.id: boundary_sizes(setting, scale) for setting in settings}
    return figure_products(
        lambda: boundaries_figure.make(table),
        lambda: boundaries_figure.caption(table, scale, sizes),
        identity={"figure": "boundaries", "scale": scale, "sizes": sizes},
        inputs=(table,),
        code=boundaries_figure.__name__,
        rule="boundaries_figure",
    )
