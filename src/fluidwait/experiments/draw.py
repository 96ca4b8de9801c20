"""Draw the figures of an experiment in several formats, with their captions beside them."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.tables import load_table
from fluidwait.drawing.saving import save_figure
from fluidwait.experiments import figures
from fluidwait.experiments.experiment import Experiment, load_experiment, replayed_rows, workload_of
from fluidwait.experiments.figures import boundaries

SUFFIXES = ("png", "pdf", "svg", "txt")


def described(experiment: Experiment, scale: str, kind: str) -> dict:
    """What a kind of figure knows of an experiment: id, title, labels in the order of drawing, scale, its arrivals."""
    keys = experiment.traced() if kind == "memory" else experiment.policies
    workload = workload_of(experiment)
    rows = replayed_rows(experiment, workload, scale)
    labels = {key: experiment.entry(key).label for key in keys}
    return {
        "id": experiment.id,
        "title": experiment.title,
        "labels": labels,
        "scale": scale,
        "window": experiment.window,
        "constant_rate": workload.arrivals.constant_rate,
        "replayed": None if rows is None else _replayed(rows),
    }


def _replayed(rows: dict) -> str:
    first = ", ".join(f"{start} to {end}" for start, end in rows["used"])
    return f"rows {first} of the {rows['rows']} of the trace, {rows['left_out']} left out"


def draw(experiment: Experiment, kind: str, scale: str, results: Path, outs: list[Path]) -> None:
    """Write the figure to every path of ``outs``: .png, .pdf or .svg, and .txt for its caption."""
    about = described(experiment, scale, kind)
    recorded = {
        "config": {"figure": kind, "experiment": about},
        "inputs": figures.inputs(kind, results, about),
        "code": imported_modules(__name__, f"fluidwait.experiments.figures.{kind}"),
        "rule": "figure",
    }
    (figure,) = figures.make(kind, results, about).values()
    (caption,) = figures.captions(kind, results, about).values()
    _write(figure, caption, outs, recorded)


def draw_all(experiment: Experiment, scale: str, results: Path, folder: Path) -> None:
    """Write every figure of the experiment into ``folder``, as PNG, PDF, SVG and text, named after ``results``."""
    for kind in experiment.figures:
        draw(experiment, kind, scale, results, [folder / f"{results.name}_{kind}.{suffix}" for suffix in SUFFIXES])


def boundary_sizes(experiment: Experiment, scale: str) -> dict[str, int]:
    """How much a search for λ* runs."""
    replications = experiment.scale(scale).replications
    return {"requests": experiment.boundary_requests_at(scale), "replications": replications}


def draw_boundaries(table: Path, scale: str, outs: list[Path]) -> None:
    """Write the figure of a boundaries.csv to every path of ``outs``, as :func:`draw`."""
    names = load_table(table, columns=["experiment"])["experiment"].unique(maintain_order=True)
    sizes = {name: boundary_sizes(load_experiment(name), scale) for name in names}
    recorded = {
        "config": {"figure": "boundaries", "scale": scale, "sizes": sizes},
        "inputs": [table],
        "code": imported_modules(__name__, boundaries.__name__),
        "rule": "boundaries_figure",
    }
    _write(boundaries.make(table), boundaries.caption(table, scale, sizes), outs, recorded)


def _write(figure: Figure, caption: str, outs: list[Path], recorded: dict) -> None:
    for out in outs:
        if out.suffix == ".txt":
            write_artifact(out, lambda path, _: path.write_text(caption + "\n", encoding="utf-8"), **recorded)
        else:
            write_artifact(out, lambda path, key: save_figure(figure, path, key), **recorded)
