"""A figure as products of a step: in every format, with its caption as text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Exhibit, text
from fluidwait.drawing.saving import save_figure

SUFFIXES = ("png", "pdf", "svg", "txt")
"""Of a figure's files: three formats, and its caption."""


def figure_files(stem: str) -> tuple[str, ...]:
    """The files of a figure, the PNG first."""
    return tuple(f"{stem}.{suffix}" for suffix in SUFFIXES)


def figure_products(
    make: Callable[[], Figure],
    caption: Callable[[], str],
    *,
    identity: dict[str, Any],
    inputs: tuple[str, ...],
    code: str,
    rule: str,
) -> tuple[Artifact, ...]:
    """Products for :func:`figure_files`; the figure is drawn once.

    Args:
        make, caption: called when the first of the files is written.
        code: module, or file, that draws.
    """
    figure = cache(make)
    recorded = {
        "identity": identity,
        "inputs": inputs,
        "code": imported_modules(__name__, code),
        "rule": rule,
    }

    def save(path: Path, key: str) -> None:
        save_figure(figure(), path, key)

    def write_caption(path: Path, key: str) -> None:
        text(caption() + "\n")(path, key)

    return tuple(Artifact(write_caption if suffix == "txt" else save, **recorded) for suffix in SUFFIXES)


def exhibit(files: tuple[str, ...], caption: str, category: str, labels: dict[str, str]) -> dict[str, Exhibit]:
    """How the figure with these files stands in Snakemake's HTML report: by its PNG."""
    return {files[0]: Exhibit(caption, category, labels)}
