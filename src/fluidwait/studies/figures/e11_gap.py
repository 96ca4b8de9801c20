"""E11: gaps at C = M* that stay: FCFS, and policies that do not know output lengths."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.base.tables import highest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table
from fluidwait.studies.figures.axes import HORIZON, decades

INPUTS = ("fcfs_gap.csv", "unknown_gap.csv")

OTHERS = {"color": "#b8b8b8", "linewidth": 0.7}
HEIGHT, WIDTH = 2.1, 2.85  # inches of a panel
LOOKS = {
    "wait": style.FAMILIES["wait"],
    "fcfs": style.FAMILIES["sarathi"],
    "fcfs_reserving": style.FAMILIES["orca"],
    "nested_wait": style.FAMILIES["vllm_v0"],
}


def make(folder: Path, scale: str) -> Figure:
    """Two panels of gap over throughput* against the horizon."""
    tables = [_table(folder / name) for name in INPUTS]
    looks = _looks(tables)
    labels = {key: label for table in tables for key, label in table.select("case", "label").iter_rows()}
    with style.journal():
        entries = [Line2D([], [], label=_shown(labels[key], tables), **look.options()) for key, look in looks.items()]
        if tables[1].filter(pl.col("policy") == "nested_wait").n_unique(["case", "thresholds"]) > 1:
            entries.append(Line2D([], [], label="Nested WAIT, other thresholds", **OTHERS))
        figure = style.new_figure(style.TWO_COLUMNS, HEIGHT + 0.75, entries)
        panels: list[Axes] = []
        for place, (table, title) in enumerate(zip(tables, ("FCFS", "output lengths unknown"), strict=True)):
            axes = style.add_axes(figure, 0.6 + 3.5 * place, 0.42, WIDTH, HEIGHT, sharey=panels[0] if panels else None)
            _panel(axes, table, looks)
            style.panel_title(axes, "ab"[place], f"{title}, C = M*")
            panels.append(axes)
        style.plain_log_axis(panels[0].yaxis)
        panels[0].set_ylabel("throughput gap (% of throughput*)")
        return figure


def caption(folder: Path, scale: str) -> str:
    known, unknown = (_table(folder / name) for name in INPUTS)
    last = unknown.filter(pl.col("iterations") == unknown["iterations"].max())
    best, wait = best_nested(unknown), last.filter(pl.col("policy") == "wait").row(0, named=True)
    text = (
        "E11, throughput gaps with the equilibrium memory C = M* and thresholds at equality, relative to throughput*, "
        "against the scaled horizon. (a) FCFS, which admits whatever fits, is evicted and keeps a constant gap; WAIT's "
        "vanishes. (b) Two types with equal prompts and different outputs: policies that cannot tell them apart keep a "
        f"constant gap; WAIT, which can, does not (at {wait['iterations']:,.0f} iterations "
        f"{100 * wait['relative_gap']:.2g} %"
    )
    if best is not None:
        count = unknown.filter(pl.col("policy") == "nested_wait")["thresholds"].n_unique()
        text += (
            f"; the best of {count} settings of Nested WAIT, thresholds {best['thresholds']}: "
            f"{100 * best['relative_gap']:.3g} %"
        )
    text += (
        "). Requests not completed at the horizon count as lost, without drain; the same requests for all policies. "
        f"{int(highest(known['replications']))} replications; bands: 95 % Student-t intervals; scale '{scale}'."
    )
    return text


def best_nested(table: pl.DataFrame) -> dict | None:
    """The row at the longest horizon of the Nested WAIT setting with the smallest gap there; None without one."""
    nested = table.filter((pl.col("policy") == "nested_wait") & (pl.col("iterations") == pl.col("iterations").max()))
    return None if nested.is_empty() else nested.sort("relative_gap").row(0, named=True)


def _table(path: Path) -> pl.DataFrame:
    return read_table(
        path,
        ("iterations", "relative_gap", "replications"),
        ("case", "label", "policy", "thresholds"),
        ("relative_gap_low", "relative_gap_high"),
    )


def _looks(tables: list[pl.DataFrame]) -> dict[str, style.Style]:
    """A style per case; cases of one policy take its styles in order."""
    looks, used = {}, dict.fromkeys(LOOKS, 0)
    for case, policy in pl.concat(tables).select("case", "policy").unique(maintain_order=True).iter_rows():
        looks[case] = LOOKS[policy][used[policy] % len(LOOKS[policy])]
        used[policy] += 1
    return looks


def _shown(label: str, tables: list[pl.DataFrame]) -> str:
    best = best_nested(tables[1])
    return f"{label}, best thresholds" if best is not None and label == best["label"] else label


def _panel(axes: Axes, table: pl.DataFrame, looks: dict[str, style.Style]) -> None:
    decades(axes)
    best = best_nested(table)
    groups = table.sort("iterations").group_by(["case", "policy", "thresholds"], maintain_order=True)
    for place, ((case, policy, thresholds), curve) in enumerate(groups):
        x, mean = curve["iterations"], 100 * curve["relative_gap"]
        if policy == "nested_wait" and best is not None and (case, thresholds) != (best["case"], best["thresholds"]):
            axes.plot(x, mean, zorder=2, label=f"{case} {thresholds}", **OTHERS)
            continue
        axes.plot(x, mean, zorder=3 + 0.01 * place, label=case, **looks[case].options())
        low, high = 100 * curve["relative_gap_low"], 100 * curve["relative_gap_high"]
        axes.fill_between(
            x, low, high, where=(low > 0).to_numpy(), color=looks[case].color, alpha=0.14, linewidth=0, zorder=2
        )
    axes.set_xlabel(HORIZON)
