"""KV memory against time, one small panel per policy and arrival rate, with the evictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import highest
from fluidwait.drawing import style
from fluidwait.drawing.reading import Shown, read_table, shown

INPUTS = ("trace/{policy}.csv",)
"""Files read, below the folder of the experiment; one per policy shown."""

CAPACITY = {"color": style.INK, "linewidth": 0.9, "linestyle": style.DASHED}
EVICTION = {"marker": "|", "color": style.INK, "markersize": 4.0, "markeredgewidth": 0.5, "linestyle": "none"}
AT = 106.0  # percent, height of the eviction marks
ROW, GAP = 0.92, 0.3  # inches, height of a panel and the space between two


def policies(experiment: Any) -> list[str]:
    """The policies that are drawn: those whose memory is recorded."""
    return experiment.traced()


def check(setting: Any, scale: str) -> None:
    """Refuse an experiment that records no memory.

    Raises:
        ConfigError: it has no ``traces``.
    """
    if setting.experiment.traces is None:
        raise ConfigError("'memory' needs traces")


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_memory: figure}``: resident KV tokens as a share of the memory; a row per policy, a column per rate.

    Reads ``trace/<policy>.csv`` (rate, time in s, share, evictions since time 0).

    Raises:
        ConfigError: a file or a column is missing, or a value is not a number.
    """
    about = shown(experiment, results_dir)
    with style.journal():
        return _draw(_traces(Path(results_dir), about), about.labels)


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about = shown(experiment, results_dir)
    traces = _traces(Path(results_dir), about)
    counts = "; ".join(
        f"{about.labels[key]} " + ", ".join(f"{_evictions(part)} at {rate:g}/s" for rate, part in _by_rate(trace))
        for key, trace in traces.items()
    )
    return (
        f"{about.title}. KV tokens resident, as a share of the KV memory, against time: one replication, from the "
        "first arrival to the last completion; a row per policy, a column per arrival rate. Long runs are cut into "
        "1,000 stretches, and the least and the largest value of each are drawn. Dashed: the whole memory. Ticks above "
        f"it: evictions ({counts}). Scale '{about.scale}'."
    )


def _traces(folder: Path, about: Shown) -> dict[str, pl.DataFrame]:
    numbers = ("rate", "time", "share", "evictions")
    return {key: read_table(folder / "trace" / f"{key}.csv", numbers) for key in about.labels}


def _by_rate(trace: pl.DataFrame) -> list[tuple[float, pl.DataFrame]]:
    return [(rate, part) for (rate,), part in trace.sort("rate", "time").group_by("rate", maintain_order=True)]


def _evictions(trace: pl.DataFrame) -> str:
    return f"{highest(trace['evictions']):,.0f}"


def _draw(traces: dict[str, pl.DataFrame], labels: Mapping[str, str]) -> Figure:
    looks = style.styles(labels)
    rates = np.unique(np.concatenate([trace["rate"].to_numpy() for trace in traces.values()])).tolist()
    entries = [
        Line2D([], [], label="KV memory", **CAPACITY),
        Line2D([], [], label="eviction", **EVICTION | {"markersize": 7.0, "markeredgewidth": 1.0}),
    ]
    left, across, bottom = 0.5, 0.14, 0.42
    figure = style.new_figure(style.TWO_COLUMNS, bottom + len(traces) * (ROW + GAP) - 0.08, entries)
    width = (style.TWO_COLUMNS - left - 0.1 - across * (len(rates) - 1)) / len(rates)
    ends = {rate: max(_last(trace, rate) for trace in traces.values()) for rate in rates}
    for row, (key, trace) in enumerate(traces.items()):
        for column, rate in enumerate(rates):
            up = bottom + (len(traces) - 1 - row) * (ROW + GAP)
            axes = style.add_axes(figure, left + column * (width + across), up, width, ROW)
            _panel(axes, trace.filter(pl.col("rate") == rate).sort("time"), looks[key].color)
            axes.set_xlim(0.0, ends[rate] * 1.01)
            axes.set_title(f"{labels[key]}, λ = {rate:g}/s")
            axes.tick_params(labelbottom=row == len(traces) - 1, labelleft=column == 0)
            if row == len(traces) - 1:
                axes.set_xlabel("time (s)")
            if column == 0:
                axes.set_ylabel("memory (%)")
    return figure


def _last(trace: pl.DataFrame, rate: float) -> float:
    return highest(trace.filter(pl.col("rate") == rate)["time"]) or 0.0


def _panel(axes: Axes, trace: pl.DataFrame, color: str) -> None:
    axes.plot(trace["time"], 100.0 * trace["share"], color=color, linewidth=0.6, label="share", zorder=3)
    axes.axhline(100.0, **CAPACITY, zorder=2)
    evicting = trace.filter(pl.col("evictions").diff().fill_null(pl.col("evictions")) > 0)
    axes.plot(evicting["time"], np.full(evicting.height, AT), **EVICTION, label="evictions", zorder=3)
    axes.set_ylim(0.0, 112.0)
    axes.set_yticks([0, 50, 100])
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,.0f}"))
