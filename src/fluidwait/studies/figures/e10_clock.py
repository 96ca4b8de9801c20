"""E10: mean latency of the policies inside vLLM's scheduler against the rate, and the change from its own."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fluidwait.base.tables import lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table

INPUTS = ("latency.csv",)

COLUMNS, LEFT, BOTTOM, GAP = 3, 0.55, 0.45, 0.42  # panels in a row; inches
LEAST = 3  # replications for an interval
LATENCY, BETWEEN, CHANGE, ROW = 1.35, 0.14, 0.85, 0.68  # inches: of the parts of a panel, and between two rows


def make(folder: Path, scale: str) -> Figure:
    """A panel for each load: latency above, its change from the baseline below."""
    table = _table(folder)
    loads = dict(table.select("workload", "load").unique(maintain_order=True).iter_rows())
    most = max(loads, key=lambda load: table.filter(pl.col("workload") == load)["policy"].n_unique())
    ordered = pl.concat([table.filter(pl.col("workload") == most), table])  # a load with few would mix up the order
    labels = dict(ordered.select("policy", "label").unique(maintain_order=True).iter_rows())
    looks = style.styles(labels)
    rows = -(-len(loads) // COLUMNS)
    width = (style.TWO_COLUMNS - LEFT - 0.08 - GAP * (COLUMNS - 1)) / COLUMNS
    panel = LATENCY + BETWEEN + CHANGE
    with style.journal():
        height = BOTTOM + rows * panel + (rows - 1) * ROW + 0.26
        figure = style.new_figure(style.TWO_COLUMNS, height, style.handles(labels, looks))
        for place, (load, title) in enumerate(loads.items()):
            left = LEFT + place % COLUMNS * (width + GAP)
            bottom = BOTTOM + (rows - 1 - place // COLUMNS) * (panel + ROW)
            upper = style.add_axes(figure, left, bottom + CHANGE + BETWEEN, width, LATENCY)
            lower = style.add_axes(figure, left, bottom, width, CHANGE, sharex=upper)
            part = table.filter(pl.col("workload") == load)
            _latency(upper, part, looks)
            _change(lower, part, looks)
            style.panel_title(upper, ascii_lowercase[place % 26], title)
            if place % COLUMNS == 0:
                upper.set_ylabel("mean latency (s)")
                lower.set_ylabel("change (%)")
        return figure


def caption(folder: Path, scale: str) -> str:
    table = _table(folder)
    base = table.filter(pl.col("is_baseline"))["label"][0]
    bounds = table.filter(pl.col("is_baseline")).group_by("load", maintain_order=True).first()
    edges = ", ".join(f"{row['load']}: {row['rate'] / row['share']:.3g}/s" for row in bounds.iter_rows(named=True))
    count = int(lowest(table["replications"]))
    bands = f"Bands: 95 % Student-t intervals over {count} replications" if count >= LEAST else f"{count} replications"
    return (
        "E10, policies inside vLLM's own scheduler, in virtual time on the calibrated A100. Above: mean end-to-end "
        "latency of the middle half of the requests, against the arrival rate as a share of what the calibrated fluid "
        f"model carries within the engine's limits ({edges}). Below: its change from {base} on the same requests. "
        f"{bands}; scale '{scale}'."
    )


def _table(folder: Path) -> pl.DataFrame:
    numbers = ("share", "rate", "mean", "low", "high", "change", "change_low", "change_high", "replications")
    table = read_table(folder / "latency.csv", numbers, ("workload", "load", "policy", "label", "is_baseline"))
    bounds = pl.col("low", "high", "change_low", "change_high")
    told = pl.when(pl.col("replications") >= LEAST).then(bounds).otherwise(float("nan"))
    return table.with_columns(told, pl.col("is_baseline") == "true")


def _curves(part: pl.DataFrame, looks: dict[str, style.Style]) -> dict[str, pl.DataFrame]:
    curves = {key: part.filter(pl.col("policy") == key).sort("share") for key in looks}
    return {key: curve for key, curve in curves.items() if not curve.is_empty()}


def _latency(axes: Axes, part: pl.DataFrame, looks: dict[str, style.Style]) -> None:
    part = part.with_columns(mean_low=pl.col("low"), mean_high=pl.col("high"))
    style.plot_curves(axes, _curves(part, looks), looks, "mean", x="share")
    axes.set_yscale("log")
    style.plain_log_axis(axes.yaxis)
    axes.axvline(1.0, **style.BOUNDARY, zorder=1)
    axes.tick_params(axis="x", labelbottom=False)


def _change(axes: Axes, part: pl.DataFrame, looks: dict[str, style.Style]) -> None:
    axes.axhline(0.0, color=style.FAINT, linewidth=0.8, zorder=1)
    shown = pl.col("change", "change_low", "change_high") * 100
    curves = _curves(part.filter(~pl.col("is_baseline")).with_columns(shown), looks)
    style.plot_curves(axes, curves, looks, "change", x="share")
    axes.axvline(1.0, **style.BOUNDARY, zorder=1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.set_xlabel("rate (share of the bound)")
