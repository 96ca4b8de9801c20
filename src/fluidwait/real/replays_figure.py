"""Published recordings of vLLM and the simulator on the same requests: the engine's state over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.base.tables import load_table
from fluidwait.drawing import style
from fluidwait.real.published import read_published

INPUTS = ("timeline.csv", "errors.csv")

HEIGHT, WIDTH, LEFT, BOTTOM, GAP = 0.95, 2.92, 0.46, 0.42, 0.16  # inches
BETWEEN = 0.64  # columns, inches
LINES: dict[str, dict[str, Any]] = {
    "vllm": {"label": "vLLM, recorded", "color": "#b5b5b5", "linestyle": style.SOLID, "linewidth": 2.6},
    "ours": {"label": "simulator", "color": "#0072B2", "linestyle": style.SOLID, "linewidth": 0.9},
    "equal": {"label": "the same if unequal lengths cost nothing", "color": "#D55E00", "linestyle": style.DOTTED},
}
ROWS = {"running": "running", "waiting": "waiting", "kv": "KV memory (%)"}


def make(folder: Path) -> Figure:
    """A column for each recording: requests running, requests waiting, share of the KV memory in use."""
    table = load_table(folder / "timeline.csv", having=("record", "t_s"))
    records = table["record"].unique(maintain_order=True).to_list()
    entries = [Line2D([], [], **look) for look in LINES.values()]
    with style.journal():
        height = BOTTOM + len(ROWS) * (HEIGHT + GAP) + 0.12
        figure = style.new_figure(style.TWO_COLUMNS, height, entries)
        for column, record in enumerate(records):
            part = table.filter(pl.col("record") == record)
            for row, (what, label) in enumerate(ROWS.items()):
                bottom = BOTTOM + (len(ROWS) - 1 - row) * (HEIGHT + GAP)
                axes = style.add_axes(figure, LEFT + column * (WIDTH + BETWEEN), bottom, WIDTH, HEIGHT)
                _lines(axes, part, what)
                axes.set_ylabel(label)
                axes.tick_params(labelbottom=row == len(ROWS) - 1)
                if row == 0:
                    style.panel_title(axes, "ab"[column], read_published(record).about.title)
            axes.set_xlabel("s since the first request")
        figure.align_ylabels()
        return figure


def _lines(axes: Axes, part: pl.DataFrame, what: str) -> None:
    for place, (name, look) in enumerate(LINES.items()):
        axes.plot(part["t_s"], part[f"{what}_{name}"], **look, zorder=3 + place)
    axes.set_xlim(0, part["t_s"].max())
    axes.set_ylim(0, 105 if what == "kv" else None)


def caption(folder: Path) -> str:
    errors = load_table(folder / "errors.csv", having=("record", "async_error_percent"))
    short = errors.group_by("record", maintain_order=True).agg(
        mean=pl.col("async_error_percent").abs().mean(), worst=pl.col("async_error_percent").abs().max()
    )
    told = "; ".join(
        f"{read_published(row['record']).about.title}: {row['mean']:.2f} % on average, {row['worst']:.1f} % at worst"
        for row in short.to_dicts()
    )
    return (
        "Two published recordings of vLLM 0.19 on real GPUs (LLMServingSim project, 300 conversations at 10 "
        "requests/s) and the simulator on the same requests, with asynchronous scheduling and iteration times from "
        f"kernel profiles alone. Errors of the fifteen published quantities: {told}. Dotted: a variant in which "
        "decodes of unequal length take no longer than equal ones. (b) The engine did not log its KV memory there."
    )
