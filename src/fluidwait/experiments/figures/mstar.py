"""Equilibrium memory against the arrival rate: the paper's linear model, its four published points, ours calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_json, read_table, shown

INPUTS = ("thresholds.csv", "thresholds.json")
"""Files read, below the folder of the experiment."""

PUBLISHED = {50.0: 34_377.0, 60.0: 55_758.0, 70.0: 100_327.0, 80.0: 250_509.0}
"""M* in KV tokens by requests/s, of the paper's table for the real conversation lengths (arXiv 2504.11320)."""

PUBLISHED_CROSSING = 74.1
"""requests/s at which M* = C, by the same paper."""

POINTS = 400  # of the smooth curve
LINEAR = {"color": style.INK, "linestyle": "-"}
CALIBRATED = {"color": "#0072B2", "linestyle": style.DASHED}


def check(setting: Any, scale: str) -> None:
    """Refuse hardware without the paper's linear model.

    Raises:
        ConfigError: it has no ``timing.linear``.
    """
    if setting.hardware.timing.linear is None:
        raise ConfigError(f"'mstar' needs timing.linear, which hardware {setting.hardware.name} lacks")


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_mstar: figure}``: M* of both models, capacity, crossing and the calibrated boundary.

    Reads ``thresholds.csv`` (rate, load, iteration_time, memory, calibrated_memory; empty where there is no
    equilibrium) and ``thresholds.json`` (capacity, boundary_rate, calibrated_boundary with rate and memory, and
    where it is there calibrated_curve, the same equilibrium on a fine grid of rates).

    Raises:
        ConfigError: a file, a column or a key is missing, or no rate of the table has an equilibrium.
    """
    shown(experiment, results_dir)
    folder = Path(results_dir)
    table = _table(folder / "thresholds.csv")
    model = _model(folder / "thresholds.json")
    if table.filter(pl.col("memory").is_finite() & (pl.col("rate") > 0)).is_empty():
        raise ConfigError(f"{folder / 'thresholds.csv'}: column 'memory': no rate has an equilibrium")
    with style.journal():
        return _draw(table, model)


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about, folder = shown(experiment, results_dir), Path(results_dir)
    model, table = _model(folder / "thresholds.json"), _table(folder / "thresholds.csv")
    edge = model["calibrated_boundary"]
    differences = [abs(float(linear_memory(table, rate)) / memory - 1.0) for rate, memory in PUBLISHED.items()]
    return (
        f"{about.title}. Memory of the fluid equilibrium against the arrival rate. The paper's two-parameter model "
        f"(line) meets its four published values (squares) within {100 * max(differences):.2f} % and the capacity "
        f"C = {model['capacity']:,.0f} tokens at {model['boundary_rate']:.1f} requests/s (paper: "
        f"{PUBLISHED_CROSSING:g}). With calibrated iteration times (circles) equilibria "
        f"end at {edge['rate']:.1f} requests/s with {edge['memory']:,.0f} tokens "
        f"(limit: {edge['binding']}). Computed, not simulated; scale '{about.scale}'."
    )


def linear_memory(table: pl.DataFrame, rate: float | np.ndarray) -> np.ndarray:
    """M* of the paper's linear model at any rate, KV tokens, from the table's first rate with an equilibrium.

    With load = rate w d1, iteration time d0 / (1 - load) and M* = rate w x iteration time, one row gives w, d0 and d1,
    hence M*(rate) = d0 w rate / (1 - d1 w rate); infinite from d1 w rate = 1 on.
    """
    row = table.filter(pl.col("memory").is_finite() & (pl.col("rate") > 0)).row(0, named=True)
    work = row["memory"] / (row["rate"] * row["iteration_time"])  # w, tokens x iterations per request
    base = row["iteration_time"] * (1.0 - row["load"])  # d0, s
    load = np.asarray(rate, dtype=float) * row["load"] / row["rate"]
    with np.errstate(divide="ignore"):
        return np.where(load < 1.0, base * work * np.asarray(rate) / np.maximum(1.0 - load, 0.0), np.inf)


def _table(path: Path) -> pl.DataFrame:
    return read_table(path, ("rate", "load"), optional=("iteration_time", "memory", "calibrated_memory")).sort("rate")


def _model(path: Path) -> dict[str, Any]:
    inside = [f"calibrated_boundary.{name}" for name in ("rate", "memory", "binding")]
    return read_json(path, "capacity", "boundary_rate", *inside)


def _draw(table: pl.DataFrame, model: dict[str, Any]) -> Figure:
    capacity, crossing, edge = model["capacity"], model["boundary_rate"], model["calibrated_boundary"]
    entries = [
        Line2D([], [], label="paper's linear model M*", **LINEAR),
        Line2D([], [], label="published values", **_published_style()),
        Line2D([], [], label="calibrated model", marker="o", **CALIBRATED),
        Line2D([], [], label=f"calibrated boundary, {edge['rate']:.1f}/s", **style.BOUNDARY),
    ]
    height = 2.7
    figure = style.new_figure(style.MIDDLE, height, entries)
    axes = style.add_axes(figure, 0.75, 0.42, style.MIDDLE - 0.88, height - 0.5)
    last = max(PUBLISHED) + 6.0
    first = float(lowest(table["rate"].filter(table["rate"] > 0)))
    _linear_curve(axes, table, first, last)
    axes.plot(list(PUBLISHED), list(PUBLISHED.values()), **_published_style(), label="published", zorder=4)
    known = table.filter(pl.col("calibrated_memory").is_finite() & (pl.col("rate") <= edge["rate"]))
    curve = model.get("calibrated_curve")
    if curve is not None:
        axes.plot(curve["rate"], curve["memory"], label="calibrated curve", zorder=3, **CALIBRATED)
    between = CALIBRATED if curve is None else CALIBRATED | {"linestyle": "none"}
    axes.plot(
        [*known["rate"], edge["rate"]], [*known["calibrated_memory"], edge["memory"]], label="calibrated", zorder=3,
        marker="o", **between,
    )  # fmt: skip
    axes.axvline(edge["rate"], **style.BOUNDARY, zorder=1.5)
    axes.axhline(capacity, color=style.FAINT, linewidth=0.9, zorder=1.5)
    axes.plot([crossing], [capacity], marker="X", markersize=6, color=style.INK, label="crossing", zorder=5)
    axes.set(yscale="log", xlim=(first - 0.03 * (last - first), last + 0.03 * (last - first)))
    style.plain_log_axis(axes.yaxis)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    style.rate_axis(axes)
    axes.set_ylabel("equilibrium memory (KV tokens)")
    _words(axes, capacity, crossing, first)
    return figure


def _linear_curve(axes: Axes, table: pl.DataFrame, first: float, last: float) -> None:
    rates = np.linspace(first, last, POINTS)
    memory = linear_memory(table, rates)
    finite = np.isfinite(memory)
    axes.plot(rates[finite], memory[finite], **LINEAR, label="linear", zorder=3)
    rows = table.filter(pl.col("memory").is_finite() & pl.col("rate").is_between(first, last))
    axes.plot(rows["rate"], rows["memory"], marker=".", markersize=4, linestyle="none", color=style.INK, label="table")


def _words(axes: Axes, capacity: float, crossing: float, first: float) -> None:
    offset = {"textcoords": "offset points", "fontsize": 6.5}
    axes.annotate(f"capacity C = {capacity:,.0f} tokens", (first, capacity), (0, 3), color=style.INK, **offset)
    axes.annotate(
        f"M* = C at {crossing:.1f}/s\n(paper: {PUBLISHED_CROSSING:g}/s)", (crossing, capacity), (-8, 12), ha="right",
        va="bottom", color=style.INK, **offset,
    )  # fmt: skip


def _published_style() -> dict[str, Any]:
    return {
        "marker": "s", "markersize": 6.0, "linestyle": "none", "markerfacecolor": "none", "markeredgecolor": "#D55E00",
        "markeredgewidth": 1.1,
    }  # fmt: skip
