"""The tuning grids: latency of every setting tried, relative to the best one at the same rate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import is_file
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table, shown

INPUTS = ("tuning/{policy}.csv",)
"""Files read, below the folder of the experiment; those of the policies shown that exist."""

LEAST, WORST = 1.25, 3.0
"""The colour scale ends at the largest multiple of the best latency of a rate, but between these two."""

ROW, COLUMN = 0.13, 0.3  # inches of a cell
NAME_WIDTH = 0.052  # inches of a character


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> dict[str, Figure]:
    """``{<id>_tuning_<policy>: figure}`` for every policy shown that was tuned: a heat map of settings by rates.

    Reads ``tuning/<policy>.csv`` (rate, settings as JSON, mean_latency; empty where the policy refused the setting).
    Dots mark the lowest latency of a rate.

    Raises:
        ConfigError: no policy shown was tuned, a column is missing, a value is not a number or settings not JSON.
    """
    about = shown(experiment, results_dir)
    with style.journal():
        return {
            f"{about.id}_tuning_{key}": _draw(grid, about.labels[key])
            for key, grid in _grids(Path(results_dir), about.labels).items()
        }


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> dict[str, str]:
    """The caption of each figure of :func:`make`."""
    about = shown(experiment, results_dir)
    return {
        f"{about.id}_tuning_{key}": (
            f"{about.title}. Tuning of {about.labels[key]}: mean latency of each of the {grid['settings'].n_unique()} "
            "settings tried, as a multiple of the best at the same arrival rate (dot), at "
            f"{grid['rate'].n_unique()} rates. Scale '{about.scale}'."
        )
        for key, grid in _grids(Path(results_dir), about.labels).items()
    }


def _grids(folder: Path, labels: Mapping[str, str]) -> dict[str, pl.DataFrame]:
    paths = {key: folder / "tuning" / f"{key}.csv" for key in labels}
    grids = {key: _grid(path) for key, path in paths.items() if is_file(path)}
    if not grids:
        raise ConfigError(f"{folder / 'tuning'}: no tuning of any policy shown ({', '.join(labels)})")
    return grids


def _grid(path: Path) -> pl.DataFrame:
    """Columns rate, settings, mean_latency and name: what tells the setting from the others of the grid."""
    table = read_table(path, ("rate",), ("settings",), ("mean_latency",))
    try:
        parsed = {text: dict(json.loads(text)) for text in table["settings"].unique(maintain_order=True)}
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: column 'settings': not a JSON object") from None
    keys = sorted({key for settings in parsed.values() for key in settings})
    varied = [key for key in keys if len({json.dumps(s.get(key)) for s in parsed.values()}) > 1] or keys[:1]
    names = {text: ", ".join(f"{key} {settings.get(key)}" for key in varied) for text, settings in parsed.items()}
    return table.with_columns(name=pl.col("settings").replace_strict(names))


def _draw(grid: pl.DataFrame, label: str) -> Figure:
    names, rates = grid["name"].unique(maintain_order=True).to_list(), grid["rate"].unique().sort().to_list()
    values = np.full((len(names), len(rates)), np.nan)
    for name, rate, latency in grid.select("name", "rate", "mean_latency").iter_rows():
        values[names.index(name), rates.index(rate)] = latency
    ratio = values / np.nanmin(values, axis=0)
    left = 0.15 + NAME_WIDTH * max(map(len, names))
    width, height = max(COLUMN * len(rates), 1.2), max(ROW * len(names), 1.0)
    figure = style.JournalFigure(figsize=(left + width + 0.85, height + 0.72))
    axes = style.add_axes(figure, left, 0.42, width, height)
    worst = float(np.clip(np.nanmax(ratio), LEAST, WORST))
    image = axes.imshow(ratio, aspect="auto", cmap="cividis_r", norm=LogNorm(1.0, worst), interpolation="nearest")
    row, column = np.nonzero(ratio == 1.0)
    axes.plot(column, row, marker="o", markersize=3, linestyle="none", color="#D55E00", label="best")
    _cell_axes(axes, names, rates)
    figure.text(0.02, 1.0 - 0.09 / figure.get_figheight(), label, va="top")
    _scale(figure, image, left + width + 0.12, height, worst)
    return figure


def _cell_axes(axes: Axes, names: list[str], rates: list[float]) -> None:
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_yticks(range(len(names)), names, fontsize=6.0)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.set_xlabel("arrival rate λ (requests/s)")


def _scale(figure: Figure, image: Any, left: float, height: float, worst: float) -> None:
    bar = figure.colorbar(
        image,
        cax=style.add_axes(figure, left, 0.42, 0.1, height),
        extend="max",
        label="latency / best at rate",
    )
    bar.ax.yaxis.set_major_locator(
        FixedLocator([tick for tick in (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, WORST) if tick <= worst])
    )
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.ax.yaxis.set_minor_locator(FixedLocator([]))
    bar.ax.grid(False)
