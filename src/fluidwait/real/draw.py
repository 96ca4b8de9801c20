"""Draw a figure of a bundle in several formats, with its caption beside it."""

from __future__ import annotations

from pathlib import Path

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.drawing.saving import save_figure
from fluidwait.real.bundle import read_bundle
from fluidwait.real.figures import FIGURES


def draw(name: str, folder: Path, results: Path, outs: list[Path], fresh: bool) -> None:
    """Write the figure to every path of ``outs``: .png, .pdf or .svg, and .txt for its caption.

    Raises:
        ConfigError: no such figure, or the bundle has no runs to draw.
    """
    if name not in FIGURES:
        raise ConfigError(f"'{name}' is not a figure of the real engine{nearest(name, list(FIGURES))}")
    bundle, kind = read_bundle(folder), FIGURES[name]
    tables = kind.INPUTS + (kind.WITH_RUNS if bundle.has_runs() else ())
    recorded = {
        "config": {"figure": name, "fresh": fresh},
        "inputs": [bundle.path("bundle.json"), *(results / table for table in tables)],
        "code": imported_modules(__name__),
        "rule": "real_figure",
    }
    figure, text = kind.make(results, bundle, fresh), kind.caption(results, bundle, fresh)
    for out in outs:
        if out.suffix == ".txt":
            write_artifact(out, lambda path, _: path.write_text(text + "\n", encoding="utf-8"), **recorded)
        else:
            write_artifact(out, lambda path, key: save_figure(figure, path, key), **recorded)
