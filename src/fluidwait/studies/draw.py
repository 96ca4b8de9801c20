"""Draw one figure of a study in several formats, with its caption beside it."""

from __future__ import annotations

from pathlib import Path

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.drawing.saving import save_figure
from fluidwait.studies.figures import FIGURES
from fluidwait.studies.study import Study


def module_of(study: Study, name: str):
    """The module of a figure.

    Raises:
        ConfigError: the study has no such figure.
    """
    known = FIGURES[study.id]
    if name not in known:
        raise ConfigError(f"study {study.id}: no figure '{name}'{nearest(name, list(known))}")
    return known[name]


def draw(study: Study, name: str, scale: str, results: Path, outs: list[Path]) -> None:
    """Write the figure to every path of ``outs``: .png, .pdf or .svg, and .txt for its caption."""
    study.scale(scale)
    module = module_of(study, name)
    recorded = {
        "config": {"figure": name, "study": study.id, "scale": scale},
        "inputs": [results / table for table in module.INPUTS],
        "code": imported_modules(__name__, module.__name__),
        "rule": "study_figure",
    }
    figure, caption = module.make(results, scale), module.caption(results, scale)
    for out in outs:
        if out.suffix == ".txt":
            write_artifact(out, lambda path, _: path.write_text(caption + "\n", encoding="utf-8"), **recorded)
        else:
            write_artifact(out, lambda path, key: save_figure(figure, path, key), **recorded)
