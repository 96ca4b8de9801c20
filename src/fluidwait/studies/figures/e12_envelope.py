"""E12: mean latency against the rate on a few loads, and the envelope of the static policies."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table

INPUTS = ("latency.csv", "envelope.csv")

COLUMNS, LEFT, BOTTOM, GAP, PANEL, ROW = 2, 0.55, 0.45, 0.6, 1.75, 0.42
"""Panels in a row; inches: the margins, between panels, the height of a panel, and between rows."""

ENVELOPE = {"color": "#b0b0b0", "linewidth": 4.0, "solid_capstyle": "round", "zorder": 1}
DIGITS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)  # ticks of a decade: a panel may show no more than a factor of two
NAME = "best static policy of each rate"


def make(folder: Path, scale: str) -> Figure:
    """A panel for each load: the envelope as a broad line, the policies on it."""
    table, envelope = _tables(folder)
    loads = dict(table.select("workload", "load").unique(maintain_order=True).iter_rows())
    labels = dict(table.select("policy", "label").unique(maintain_order=True).iter_rows())
    looks = style.styles(labels)
    rows = -(-len(loads) // COLUMNS)
    width = (style.TWO_COLUMNS - LEFT - 0.08 - GAP * (COLUMNS - 1)) / COLUMNS
    with style.journal():
        legend = [Line2D([], [], label=NAME, **ENVELOPE), *style.handles(labels, looks)]
        figure = style.new_figure(style.TWO_COLUMNS, BOTTOM + rows * PANEL + (rows - 1) * ROW + 0.26, legend)
        for place, (load, title) in enumerate(loads.items()):
            left = LEFT + place % COLUMNS * (width + GAP)
            bottom = BOTTOM + (rows - 1 - place // COLUMNS) * (PANEL + ROW)
            axes = style.add_axes(figure, left, bottom, width, PANEL)
            of_load = pl.col("workload") == load
            _panel(axes, table.filter(of_load), envelope.filter(of_load).sort("share"), looks)
            style.panel_title(axes, ascii_lowercase[place % 26], title)
            if place % COLUMNS == 0:
                axes.set_ylabel("mean latency (s)")
            if place >= len(loads) - COLUMNS:
                axes.set_xlabel("rate (share of the usable bound)")
        return figure


def caption(folder: Path, scale: str) -> str:
    table, envelope = _tables(folder)
    bounds = table.group_by("load", maintain_order=True).first()
    edges = ", ".join(f"{row['load']}: {row['rate'] / row['share']:.3g}/s" for row in bounds.iter_rows(named=True))
    return (
        "E12, mean end-to-end latency of the middle half of the requests, against the arrival rate as a share of the "
        f"usable bound ({edges}). Broad line: at each rate the best of {int(lowest(envelope['tried']))} static "
        f"policies, chosen at that very rate. Means over {int(lowest(table['replications']))} replications, on "
        f"the same requests for all policies; scale '{scale}'."
    )


def _tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    numbers = ("share", "rate", "mean", "low", "high", "replications")
    table = read_table(folder / "latency.csv", numbers, ("workload", "load", "policy", "label", "drawn"))
    chosen = table.filter(pl.col("drawn") == "true")
    if chosen.is_empty():
        raise ConfigError(f"{folder / 'latency.csv'}: no row is marked as drawn")
    return chosen, read_table(folder / "envelope.csv", ("share", "mean", "tried"), ("workload",))


def _panel(axes: Axes, table: pl.DataFrame, envelope: pl.DataFrame, looks: dict[str, style.Style]) -> None:
    axes.plot(envelope["share"], envelope["mean"], label="envelope", **ENVELOPE)
    curves = {key: table.filter(pl.col("policy") == key).sort("share") for key in looks}
    shown = {key: curve for key, curve in curves.items() if not curve.is_empty()}
    for key, curve in shown.items():
        axes.plot(curve["share"], curve["mean"], label=key, **looks[key].options())
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=DIGITS, numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(envelope["share"].to_list())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
