"""E11: gap, latency and TTFT against zeta T, and the fitted exponents beside those of the theorems."""

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
from fluidwait.studies.figures.axes import HORIZON, decades

INPUTS = ("scaling.csv", "exponents.csv")

PANELS = {
    "gap": ("throughput gap (tokens/s)", (-0.5, -1.0)),
    "latency": ("latency / service time", (0.5, 0.0)),
    "ttft": ("TTFT / iteration time", (0.5, 0.0)),
}
COLORS = ("#0072B2", "#D55E00", "#009E73", "#B5549B")
MARKERS = "osD^"
HEIGHT, WIDTH = 1.75, 2.85  # inches of a panel


def make(folder: Path, scale: str) -> Figure:
    """Four panels: the three quantities on logarithmic axes, and every exponent with its interval."""
    curves, exponents = _tables(folder)
    looks = _looks(curves)
    with style.journal():
        entries = [Line2D([], [], label=_label(curves, case), **look) for case, look in looks.items()]
        entries.append(Line2D([], [], color=style.FAINT, linewidth=0.9, label="slopes of the theorems"))
        figure = style.new_figure(style.TWO_COLUMNS, 2 * HEIGHT + 1.45, entries)
        places = {"gap": (0.6, HEIGHT + 1.1), "latency": (4.15, HEIGHT + 1.1), "ttft": (0.6, 0.42)}
        for letter, (quantity, (left, bottom)) in zip("abc", places.items(), strict=True):
            axes = style.add_axes(figure, left, bottom, WIDTH, HEIGHT)
            _panel(axes, curves.filter(pl.col("quantity") == quantity), quantity, looks)
            style.panel_title(axes, letter)
        axes = style.add_axes(figure, 4.15, 0.42, WIDTH, HEIGHT)
        _exponents(axes, exponents, looks)
        style.panel_title(axes, "d", "exponents of ζT")
        return figure


def caption(folder: Path, scale: str) -> str:
    curves, exponents = _tables(folder)
    least, most = (int(x) for x in (lowest(curves["replications"]), highest(curves["replications"])))
    decades_fitted, horizons = exponents["decades"], curves["iterations"]
    return (
        "E11, scaling exponents of WAIT and Nested WAIT in the paper's model. (a) Throughput gap, (b) "
        "service-normalised latency and (c) TTFT against the scaled horizon, when the conditions on the thresholds "
        "hold with equality (filled) and with slack (open). The gap counts the decode tokens of requests not completed "
        "at the horizon, without drain; it includes those in service. Grey: the slopes of the theorems' upper bounds, "
        "-1/2, -1, 1/2 and 0. (d) Least-squares exponents over the last "
        f"{lowest(decades_fitted):.2g} to {highest(decades_fitted):.2g} decades with 95 % bootstrap intervals over "
        "replications; a bar marks the theorem's bound, which a smaller exponent obeys too. Nested WAIT at equality "
        f"lies outside its theorem (unlimited memory). {least} to {most} replications, horizons from "
        f"{lowest(horizons):,.0f} to {highest(horizons):,.0f} iterations of a full batch; bands: "
        f"95 % Student-t intervals; no warm-up is removed; scale '{scale}'."
    )


def _tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    curves = read_table(
        folder / "scaling.csv",
        ("slack", "iterations", "mean", "replications"),
        ("case", "label", "quantity"),
        ("low", "high"),
    )
    exponents = read_table(
        folder / "exponents.csv", ("exponent", "expected", "decades"), ("case", "quantity"), ("low", "high")
    )
    return curves, exponents


def _looks(curves: pl.DataFrame) -> dict[str, dict]:
    """Colour and marker by the part of the key before its last word, filled without slack."""
    looks, families = {}, []
    for case, slack in curves.select("case", "slack").unique(maintain_order=True).iter_rows():
        family = case.rpartition("_")[0]
        if family not in families:
            families.append(family)
        place = families.index(family) % len(COLORS)
        looks[case] = style.Style(
            COLORS[place], MARKERS[place], slack == 0, style.SOLID if slack == 0 else style.DASHED
        ).options()
    return looks


def _label(curves: pl.DataFrame, case: str) -> str:
    return curves.filter(pl.col("case") == case)["label"][0]


def _panel(axes: Axes, curves: pl.DataFrame, quantity: str, looks: dict[str, dict]) -> None:
    decades(axes)
    for case, look in looks.items():
        curve = curves.filter(pl.col("case") == case).sort("iterations")
        axes.plot(curve["iterations"], curve["mean"], label=case, zorder=3, **look)
        known = (curve["low"] > 0).to_numpy()
        axes.fill_between(
            curve["iterations"], curve["low"], curve["high"], where=known, color=look["color"], alpha=0.14, linewidth=0
        )
    limits = axes.get_ylim()
    _guides(axes, curves, PANELS[quantity][1])
    axes.set_ylim(limits)
    axes.set(xlabel=HORIZON, ylabel=PANELS[quantity][0])


def _guides(axes: Axes, curves: pl.DataFrame, slopes: tuple[float, float]) -> None:
    """A line of each slope, above the last points of the cases that it bounds."""
    x = np.geomspace(lowest(curves["iterations"]), highest(curves["iterations"]), 2)
    for slope, with_slack in zip(slopes, (False, True), strict=True):
        bounded = curves.filter((pl.col("slack") > 0) == with_slack)
        if not bounded.is_empty():
            height = highest(bounded["mean"] / bounded["iterations"].pow(slope))
            axes.plot(x, 1.5 * height * x**slope, color=style.FAINT, linewidth=0.9, zorder=2)


def _exponents(axes: Axes, exponents: pl.DataFrame, looks: dict[str, dict]) -> None:
    row, ticks = 0.0, []
    for quantity in PANELS:
        rows = exponents.filter(pl.col("quantity") == quantity)
        ticks.append(row + (len(rows) - 1) / 2)
        for entry in rows.iter_rows(named=True):
            look = looks[entry["case"]] | {"linestyle": "none", "markersize": 3.6}
            axes.plot([entry["low"], entry["high"]], [row, row], color=look["color"], linewidth=1.0, zorder=3)
            axes.plot([entry["exponent"]], [row], zorder=4, **look)
            axes.plot([entry["expected"]] * 2, [row - 0.45, row + 0.45], color=style.FAINT, linewidth=1.6, zorder=2)
            row += 1
        row += 1
    axes.set_ylim(row - 1.3, -0.7)
    axes.set_yticks(ticks, ["gap", "latency", "TTFT"])
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("exponent")
