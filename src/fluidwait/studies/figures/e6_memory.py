"""E6: memory terms of Nested WAIT against the number of segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fluidwait.base.tables import highest, lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table
from fluidwait.studies.figures.axes import decades, whole_counts

INPUTS = ("memory.csv", "answers.csv")

TERMS: dict[str, dict[str, Any]] = {
    "total": {"color": style.INK, "linestyle": "-", "linewidth": 1.6},
    "base": {"color": "#0072B2", "linestyle": "-"},
    "buffer": {"color": "#D55E00", "linestyle": style.DASHED},
    "queue": {"color": "#009E73", "linestyle": style.DASH_DOT},
}
SHADES = ("#F09A56", "#D55E00", "#7F3800", "#B5549B", "#000000")
HEIGHT, WIDTH = 2.0, 1.72  # inches of a panel


def make(folder: Path, scale: str) -> Figure:
    """A panel per rate of all terms over L, and one of the buffer over T."""
    table = _table(folder)
    rates = table["rate"].unique().sort().to_list()
    with style.journal():
        entries = [Line2D([], [], label=name, **look) for name, look in TERMS.items()]
        entries.append(Line2D([], [], marker="v", markersize=5, linestyle="none", color=style.INK, label="least total"))
        figure = style.new_figure(0.62 * (len(rates) + 1) + WIDTH * (len(rates) + 1) + 0.05, HEIGHT + 0.75, entries)
        for place, rate in enumerate(rates):
            axes = style.add_axes(figure, 0.55 + place * (WIDTH + 0.62), 0.42, WIDTH, HEIGHT)
            _terms(axes, table.filter(pl.col("rate") == rate))
            style.panel_title(axes, "abcdefgh"[place], f"{rate:g} requests/s")
        axes = style.add_axes(figure, 0.55 + len(rates) * (WIDTH + 0.62), 0.42, WIDTH, HEIGHT)
        segments = _buffer(axes, table.filter(pl.col("rate") == rates[0]))
        style.panel_title(axes, "abcdefgh"[len(rates)], f"buffer at L = {segments}")
        return figure


def caption(folder: Path, scale: str) -> str:
    table = _table(folder)
    answers = read_table(folder / "answers.csv", ("rate",), ("choice",), ("best", "base_share"))
    best = answers.filter(pl.col("choice") == "main")
    told = []
    for (rate,), rows in best.group_by(["rate"], maintain_order=True):
        low, high = lowest(rows["best"]), highest(rows["best"])
        segments = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        told.append(
            f"{segments} segments at {rate:g} requests/s, where base is {100 * lowest(rows['base_share']):.0f} to "
            f"{100 * highest(rows['base_share']):.0f} % of it"
        )
    horizon, risk = _middle(table)
    return (
        "E6, memory terms of Nested WAIT against the number of segments L, lengths of lmsys-chat-1m. Segments end at "
        "equally likely output lengths; n_k = n_1 times the product of min(p + 0.05, 0.99), n_1 collected over the "
        f"equilibrium iteration time of 50 requests/s. Lines: T = {horizon:g} s and δ = {risk:g}; bands: all "
        f"T in {_values(table, 'horizon')} s and δ in {_values(table, 'delta')}. The least total (triangle) is at "
        f"{' and '.join(told)}. Last panel: the buffer grows linearly in ln T and in ln 1/δ. Computed, not simulated; "
        f"other choices of segments, margin and iteration time in answers.csv; scale '{scale}'."
    )


def _table(folder: Path) -> pl.DataFrame:
    return read_table(folder / "memory.csv", ("rate", "horizon", "delta", "segments"), (), tuple(TERMS)).drop_nans()


def _middle(table: pl.DataFrame) -> tuple[float, float]:
    """The middle horizon and delta of those computed."""
    return tuple(sorted(table[name].unique().to_list())[table[name].n_unique() // 2] for name in ("horizon", "delta"))


def _values(table: pl.DataFrame, name: str) -> str:
    return ", ".join(f"{value:g}" for value in table[name].unique().sort(descending=name == "delta"))


def _terms(axes: Axes, table: pl.DataFrame) -> None:
    decades(axes, x=False)
    horizon, risk = _middle(table)
    middle = table.filter((pl.col("horizon") == horizon) & (pl.col("delta") == risk)).sort("segments")
    for name, look in TERMS.items():
        shown = middle.filter(pl.col(name) > 0)  # one segment has neither queue nor buffer
        axes.plot(shown["segments"], shown[name], zorder=3, label=name, **look)
        if name in ("total", "buffer"):
            band = table.filter(pl.col(name) > 0).group_by("segments").agg(
                pl.col(name).min().alias("low"), pl.col(name).max().alias("high")
            ).sort("segments")  # fmt: skip
            axes.fill_between(
                band["segments"], band["low"], band["high"], color=look["color"], alpha=0.16, linewidth=0, zorder=2
            )
    least = middle.sort("total").row(0, named=True)
    axes.plot(
        [least["segments"]], [least["total"] * 1.22], marker="v", markersize=5, color=style.INK, linestyle="none",
        zorder=4, label="least",
    )  # fmt: skip
    whole_counts(axes, [n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= highest(table["segments"])])
    axes.set(xlabel="number of segments L", ylabel="memory (KV tokens)")


def _buffer(axes: Axes, table: pl.DataFrame) -> int:
    """The buffer over T for every delta, at the L of the least total; returns that L."""
    horizon, risk = _middle(table)
    middle = table.filter((pl.col("horizon") == horizon) & (pl.col("delta") == risk) & (pl.col("segments") > 1))
    segments = int(middle.sort("total")["segments"][0])
    for place, delta in enumerate(table["delta"].unique().sort(descending=True).to_list()):
        rows = table.filter((pl.col("segments") == segments) & (pl.col("delta") == delta)).sort("horizon")
        axes.plot(
            rows["horizon"],
            rows["buffer"],
            marker="o",
            color=SHADES[place % len(SHADES)],
            label=f"{delta:g}",
            markersize=3,
        )
        axes.annotate(
            f"δ = {delta:g}",
            (rows["horizon"][-1], rows["buffer"][-1]),
            (0, -9),
            ha="right",
            va="top",
            textcoords="offset points",
            fontsize=6.5,
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.set(xlabel="horizon T (s)", ylabel="")
    return segments
