"""E11: the memory bound of Nested WAIT against the memory that it needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.base.tables import highest, lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table
from fluidwait.studies.figures.axes import decades

INPUTS = ("overflow.csv",)

COLORS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#B5549B"), "osD^"
HEIGHT, WIDTH = 2.1, 2.85  # inches of a panel


def make(folder: Path, scale: str) -> Figure:
    """Two panels over delta: KV tokens (bound and quantile), and the overflow frequency with its exact interval."""
    table = _table(folder)
    horizons = table["iterations"].unique().sort().to_list()
    with style.journal():
        looks = {h: (COLORS[i % 4], MARKERS[i % 4]) for i, h in enumerate(horizons)}
        entries = [
            Line2D([], [], color=color, marker=marker, markersize=3.4, label=f"{h:,.0f} iterations")
            for h, (color, marker) in looks.items()
        ]
        entries.append(Line2D([], [], color=style.INK, linewidth=0.9, label="bound"))
        entries.append(Line2D([], [], color=style.INK, marker="o", linestyle="none", markersize=3.4, label="simulated"))
        figure = style.new_figure(style.TWO_COLUMNS, HEIGHT + 0.75, entries)
        axes = style.add_axes(figure, 0.6, 0.42, WIDTH, HEIGHT)
        _tokens(axes, table, looks)
        style.panel_title(axes, "a", "memory")
        axes = style.add_axes(figure, 4.15, 0.42, WIDTH, HEIGHT)
        _frequency(axes, table, looks)
        style.panel_title(axes, "b", "overflow")
        return figure


def caption(folder: Path, scale: str) -> str:
    table = _table(folder)
    runs = ", ".join(
        f"{int(n):,} runs over {h:,.0f}"
        for h, n in table.select("iterations", "runs").unique().sort("iterations").rows()
    )
    return (
        "E11, memory of Nested WAIT with strict conditions and unlimited memory. (a) The bound M^req(T, δ) and, as far "
        "as the runs reach, the (1 - δ) quantile of the peak memory of a run with its exact 95 % interval; dotted: "
        "every stage full, M^π. (b) Frequency of runs whose peak exceeds the bound with the exact (Clopper-Pearson) "
        f"95 % interval, and the line where it equals δ; {int(table['overflows'].sum())} overflows in all. {runs} "
        f"iterations of a full batch, every request served to the end; scale '{scale}'."
    )


def _table(folder: Path) -> pl.DataFrame:
    numbers = ("iterations", "delta", "required", "base", "runs", "overflows", "frequency", "low", "high")
    return read_table(folder / "overflow.csv", numbers, (), ("quantile", "quantile_low", "quantile_high"))


def _tokens(axes: Axes, table: pl.DataFrame, looks: dict) -> None:
    decades(axes, y=False)
    for place, (horizon, (color, marker)) in enumerate(looks.items()):
        rows = table.filter(pl.col("iterations") == horizon).sort("delta")
        axes.plot(rows["delta"], rows["required"], color=color, label=f"bound {horizon:g}")
        known = rows.filter(pl.col("quantile").is_finite())
        x = known["delta"].to_numpy() * 1.06 ** (place - 1)  # beside one another
        error = [known["quantile"] - known["quantile_low"], known["quantile_high"] - known["quantile"]]
        axes.errorbar(
            x, known["quantile"], np.array(error), color=color, marker=marker, markersize=3.4, linestyle="none",
            elinewidth=0.8, label=f"quantile {horizon:g}",
        )  # fmt: skip
    axes.axhline(table["base"][0], color=style.INK, linestyle=style.DOTTED, linewidth=0.9)
    axes.invert_xaxis()
    axes.set(xlabel="overflow probability δ", ylabel="memory (KV tokens)")


def _frequency(axes: Axes, table: pl.DataFrame, looks: dict) -> None:
    decades(axes)
    floor = lowest(table["delta"]) / 30
    for place, (horizon, (color, marker)) in enumerate(looks.items()):
        rows = table.filter(pl.col("iterations") == horizon).sort("delta")
        x = rows["delta"].to_numpy() * 1.12 ** (place - 1)
        low, middle = (np.maximum(rows[name].to_numpy(), floor) for name in ("low", "frequency"))
        axes.vlines(x, low, rows["high"], color=color, linewidth=0.9)
        axes.plot(x, middle, color=color, marker=marker, markersize=3.4, linestyle="none", label=f"{horizon:g}")
        axes.plot(x, rows["high"], color=color, marker="_", markersize=5, linestyle="none")
    ends = np.array([lowest(table["delta"]) / 2, highest(table["delta"]) * 2])
    axes.plot(ends, ends, color=style.INK, linewidth=0.9, label="bound")
    axes.set_ylim(floor / 1.5, 1.0)
    axes.set_xlim(ends)
    axes.invert_xaxis()
    axes.annotate("0", (0, floor), (-4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", va="center", fontsize=7)  # fmt: skip
    axes.set(xlabel="overflow probability δ", ylabel="frequency of overflow")
