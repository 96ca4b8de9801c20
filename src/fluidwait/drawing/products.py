"""A figure as products of a step: in every format, with its caption as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Exhibit, Rule, text
from fluidwait.base.errors import ConfigError
from fluidwait.drawing.saving import save_figure

SUFFIXES = ("png", "pdf", "svg", "txt")
"""Of a figure's files: three formats, and its caption."""


def figure_rule(name: str, stems: Mapping[str, str], caption: str, category: str, family: str = "") -> Rule:
    """The rule that draws figures in every format.

    Args:
        stems: label of each figure in Snakemake's HTML report, by the pattern of its files without suffix.
        caption, category: in that report.
    """
    exhibits = {
        f"{stem}.png": Exhibit(caption, category, {"figure": label, "scale": "{scale}"})
        for stem, label in stems.items()
    }
    outputs = tuple(f"{stem}.{suffix}" for stem in stems for suffix in SUFFIXES)
    return Rule(name, outputs, exhibits, wanted=tuple(exhibits), family=family)


def figure_products(
    make: Callable[[], Figure],
    caption: Callable[[], str],
    *,
    identity: dict[str, Any],
    inputs: tuple[str, ...],
    code: str,
    rule: str,
) -> tuple[Artifact, ...]:
    """Products for the files of one figure of a :func:`figure_rule`; it is drawn once.

    Args:
        make, caption: called when the first of the files is written.
        code: module, or file, that draws.
    """
    figure = cache(lambda: _checked(make(), Figure, "make must return a figure", code))
    recorded: dict[str, Any] = {
        "identity": identity,
        "inputs": inputs,
        "code": imported_modules(__name__, code),
        "rule": rule,
    }

    def save(path: Path, key: str) -> None:
        save_figure(figure(), path, key)

    def write_caption(path: Path, key: str) -> None:
        text(_checked(caption(), str, "caption must return a text", code) + "\n")(path, key)

    return tuple(Artifact(write_caption if suffix == "txt" else save, **recorded) for suffix in SUFFIXES)


def _checked(made: Any, kind: type, demand: str, code: str) -> Any:
    """What a file that draws has returned.

    Raises:
        ConfigError: it is of another kind.
    """
    if not isinstance(made, kind):
        raise ConfigError(f"{code}: {demand}, found {type(made).__name__}")
    return made
