"""E12: what each policy carries of each load, and the worst of what that costs in latency at lower rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table

INPUTS = ("frontier.csv",)

COLORS, LEAST = "Blues", 0.8
"""Colours of shares from LEAST to 1: light to dark, in grey too."""

BOTTOM, RIGHT, ROW, LETTER, SLANT = 0.12, 0.6, 0.29, 0.056, 45.0
"""Inches: margins, the height of a policy's row, the width of a letter; degrees by which names of loads rise."""

HIGHEST = 10.0  # ratios from here on are not told apart


def make(folder: Path, scale: str) -> Figure:
    """A cell for each policy and load: share of the usable bound, and below it the worst ratio to the envelope."""
    table = _table(folder)
    loads, policies = (_labels(table, *names) for names in (("workload", "load"), ("policy", "label")))
    shares, ratios = (_grid(table, loads, policies, name) for name in ("share_of_usable_bound", "worst_latency_ratio"))
    longest = (LETTER * max(map(len, names.values())) for names in (policies, loads))
    left, top = next(longest) + 0.15, next(longest) * np.sin(np.radians(SLANT)) + 0.15
    with style.journal():
        width, height = style.TWO_COLUMNS - left - RIGHT, ROW * len(policies)
        figure = style.new_figure(style.TWO_COLUMNS, top + BOTTOM + height, [])
        axes = style.add_axes(figure, left, BOTTOM, width, height)
        shown = Normalize(LEAST, 1.0, clip=True)
        cells = axes.pcolormesh(
            np.ma.masked_invalid(shares), cmap=COLORS, norm=shown, edgecolors="white", linewidth=0.8
        )
        for place in np.ndindex(shares.shape):
            if np.isfinite(shares[place]):
                share, ratio = float(shares[place]), float(ratios[place])
                _write(axes, place, share, ratio, dark=shown(share) > 0.6)
        _frame(axes, list(loads.values()), list(policies.values()))
        bar = figure.colorbar(cells, cax=style.add_axes(figure, left + width + 0.1, BOTTOM, 0.09, height), extend="min")
        bar.ax.yaxis.set_major_locator(MultipleLocator(0.05))
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
        bar.outline.set_visible(False)
        return figure


def caption(folder: Path, scale: str) -> str:
    return (
        "E12, the frontier. Above in each cell, and as its colour: the rate λ* up to which the policy keeps up, as a "
        "share of the usable bound, in percent. Below: the largest ratio of its mean latency to that of the best "
        "static policy of that very rate, over the rates up to 95 % of the bound. An empty cell: the policy is not for "
        f"that load; scale '{scale}'."
    )


def _table(folder: Path) -> pl.DataFrame:
    names = ("workload", "load", "policy", "label")
    return read_table(folder / "frontier.csv", ("share_of_usable_bound", "worst_latency_ratio"), names)


def _labels(table: pl.DataFrame, key: str, label: str) -> dict[str, str]:
    """Labels by key, in the order of the table."""
    return dict(table.select(key, label).unique(maintain_order=True).iter_rows())


def _grid(table: pl.DataFrame, loads: dict[str, str], policies: dict[str, str], name: str) -> np.ndarray:
    """A column as f8[policies, loads], NaN where there is no row."""
    values = {(row["policy"], row["workload"]): row[name] for row in table.iter_rows(named=True)}
    return np.array([[values.get((policy, load), np.nan) for load in loads] for policy in policies])


def _write(axes: Axes, place: tuple[int, ...], share: float, ratio: float, dark: bool) -> None:
    row, column = place
    ink = "white" if dark else style.INK
    told = f"×{ratio:.2f}" if ratio < HIGHEST else f">×{HIGHEST:.0f}"
    for text, height, size, weight in ((f"{100 * share:.1f}", 0.34, 6.6, "bold"), (told, 0.72, 5.8, "normal")):
        axes.text(column + 0.5, row + height, text, ha="center", va="center", fontsize=size, weight=weight, color=ink)


def _frame(axes: Axes, loads: list[str], policies: list[str]) -> None:
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(loads)) + 0.5, loads, rotation=SLANT, ha="left", rotation_mode="anchor", fontsize=6.6)
    axes.set_yticks(np.arange(len(policies)) + 0.5, policies)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
