"""Stability boundary λ* of every experiment and policy, as a share of the fluid bound of the workload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table

TEXT = ("workload", "experiment", "policy", "label")
NUMBERS = ("fluid_bound",)
OPTIONAL = ("lambda_star", "low", "high", "share")

ROW, GAP = 0.145, 0.3
"""Heights of a policy's row and of an experiment's heading, inches."""


def make(table: str | Path) -> Figure:
    """One row per policy, grouped by experiment: λ* with its interval in percent of the fluid bound, and in requests/s.

    Reads ``boundaries.csv`` (workload, experiment, policy, label, lambda_star, low, high, fluid_bound, share; rates in
    requests/s; what was not found is empty).

    Raises:
        ConfigError: the file or a column is missing, or a value is not a number.
    """
    groups = _groups(table)
    with style.journal():
        return _draw(groups)


def caption(table: str | Path, scale: str, sizes: Mapping[str, Mapping[str, int]]) -> str:
    """The caption of :func:`make`; ``sizes`` has the requests of a run and the replications of each experiment."""
    runs = "; ".join(
        f"{name}: N = {sizes[name]['requests']:,}, {sizes[name]['replications']} replication(s)"
        for name in _groups(table)
    )
    return (
        "Stability boundary λ* of every policy, found by bisection of the arrival rate, with 95 % Student-t confidence "
        "intervals over the replications (where there is more than one; many are narrower than the marker), as a share "
        "of the fluid bound: the largest rate of the calibrated fluid model, with the best batch that fits the memory "
        "and without a policy's limits. A tuned policy runs at each rate with the settings chosen for the nearest rate "
        "of the sweep. Common random numbers across policies; drift of the number in system over the last three "
        f"quarters of the arrivals; requests per run, {runs}; scale '{scale}'."
    )


def _groups(table: str | Path) -> dict[str, pl.DataFrame]:
    rows = read_table(table, NUMBERS, TEXT, OPTIONAL)
    return {name: part for (name,), part in rows.group_by("experiment", maintain_order=True)}


def _draw(groups: dict[str, pl.DataFrame]) -> Figure:
    count = sum(part.height for part in groups.values())
    height = ROW * count + GAP * len(groups) + 0.5
    figure = style.new_figure(style.MIDDLE, height, [Line2D([], [], label="fluid bound", **style.BOUNDARY)])
    left, right = 1.45, 1.1
    axes = style.add_axes(figure, left, 0.42, style.MIDDLE - left - right, height - 0.5)
    top = 0.0
    for name, part in groups.items():
        bound = part["fluid_bound"][0]
        heading = f"{name}, {part['workload'][0]}: fluid bound {bound:.4g}/s"
        _beside(axes, top + 0.6 * GAP, heading, -left * 72 + 4, weight="bold")
        looks = style.styles(part["policy"])
        for place, row in enumerate(part.iter_rows(named=True)):
            _policy(axes, top + GAP + (place + 0.5) * ROW, row, looks[row["policy"]], -left * 72 + 10)
        top += GAP + part.height * ROW
    axes.axvline(100.0, **style.BOUNDARY, zorder=1.5)
    axes.set_ylim(top, 0.0)
    ends = pl.concat(list(groups.values())).select(pl.col("low", "high", "share", "lambda_star", "fluid_bound"))
    _range(axes, ends)
    axes.set_xlabel("λ* as a share of the fluid bound (%)")
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    return figure


def _policy(axes: Axes, at: float, row: dict, look: style.Style, indent: float) -> None:
    _beside(axes, at, row["label"], indent)
    if not np.isfinite(row["lambda_star"]):
        _beside(axes, at, "not found", 6.0, side=1.0, color=style.FAINT)
        return
    percent = 100.0 / row["fluid_bound"]
    options = look.options() | {"linestyle": "none"}
    axes.plot([percent * row["lambda_star"]], [at], **options, label=f"{row['experiment']} {row['policy']}", zorder=3)
    text = f"{row['lambda_star']:.4g}/s"
    if np.isfinite(row["low"]):
        axes.plot([percent * row["low"], percent * row["high"]], [at, at], color=look.color, linewidth=1.6, zorder=2)
        text = _with_error(row["lambda_star"], (row["high"] - row["low"]) / 2)
    _beside(axes, at, text, 6.0, side=1.0)


def _with_error(value: float, half: float) -> str:
    """``24.237 ± 0.006/s``: as many decimals as the first digit of the half-width needs, up to four."""
    decimals = int(np.clip(-np.floor(np.log10(half)), 0, 4)) if half > 0 else 4
    return f"{value:.{decimals}f} ± {half:.{decimals}f}/s"


def _beside(axes: Axes, at: float, text: str, shift: float, side: float = 0.0, **options) -> None:
    """Text beside the axes, ``shift`` points to the right of their left (``side`` 0) or right (1) edge."""
    axes.annotate(
        text, (side, at), (shift, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points", va="center",
        ha="left", fontsize=6.5, annotation_clip=False, **options,
    )  # fmt: skip


def _range(axes: Axes, rows: pl.DataFrame) -> None:
    shares = [100.0 * (rows[name] / rows["fluid_bound"]).to_numpy() for name in ("lambda_star", "low", "high")]
    values = np.concatenate([*shares, [100.0]])
    values = values[np.isfinite(values)]
    margin = 0.06 * (values.max() - values.min()) or 1.0
    axes.set_xlim(values.min() - margin, values.max() + margin)
