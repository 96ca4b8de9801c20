"""Draw one figure of an experiment in several formats, with its caption beside it."""

from __future__ import annotations

from pathlib import Path

from fluidwait import figures
from fluidwait.experiments.experiment import Experiment
from fluidwait.provenance import imported_modules, save_figure, write_artifact


def described(experiment: Experiment, scale: str) -> dict:
    """What figures know of an experiment: id, title, labels in the order of drawing, scale."""
    labels = {key: entry.label for key, entry in experiment.policies.items()}
    return {
        "id": experiment.id,
        "title": experiment.title,
        "labels": labels,
        "scale": scale,
        "window": experiment.window,
    }


def draw(experiment: Experiment, kind: str, scale: str, results: Path, outs: list[Path]) -> None:
    """Write the figure to every path of ``outs``: .png, .pdf or .svg, and .txt for its caption."""
    about = described(experiment, scale)
    recorded = {
        "config": {"figure": kind, "experiment": about},
        "inputs": figures.inputs(kind, results, about),
        "code": imported_modules(__name__, f"fluidwait.figures.{kind}"),
        "rule": "figure",
    }
    (figure,) = figures.make(kind, results, about).values()
    (caption,) = figures.captions(kind, results, about).values()
    for out in outs:
        if out.suffix == ".txt":
            write_artifact(out, lambda path, _: path.write_text(caption + "\n", encoding="utf-8"), **recorded)
        else:
            write_artifact(out, lambda path, key: save_figure(figure, path, key), **recorded)
