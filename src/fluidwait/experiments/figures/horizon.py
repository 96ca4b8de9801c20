"""Mean latency against the length of the run: a plateau below the stability boundary, growth above it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fluidwait.drawing import style
from fluidwait.drawing.reading import of_policy, read_table, sample, shown

INPUTS = ("summary.csv",)
"""Files read, below the folder of the experiment."""

BOUNDS = ("mean_latency_low", "mean_latency_high")
PANEL_HEIGHT = 2.4  # inches


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_horizon: figure}``: a panel per arrival rate, on one logarithmic latency axis.

    Reads ``summary.csv`` (policy, rate, requests, mean_latency, mean_latency_low, mean_latency_high).

    Raises:
        ConfigError: a file, a column or a policy is missing, or a value is not a number.
    """
    about, path = shown(experiment, results_dir), Path(results_dir) / "summary.csv"
    summary = read_table(path, ("rate", "requests", "mean_latency"), ("policy",), BOUNDS)
    curves = {key: of_policy(summary, key, path).sort("requests") for key in about.labels}
    with style.journal():
        return _draw(curves, about.labels)


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about, path = shown(experiment, results_dir), Path(results_dir) / "summary.csv"
    summary = read_table(path, ("requests", "replications"), ("policy",))
    return (
        f"{about.title}. Mean end-to-end latency against the number of requests of the run, one panel per arrival "
        "rate; a policy that is stable at the rate levels off, one that is not grows in proportion. Shorter runs are "
        "the beginnings of longer ones (the same requests), so the points of a curve are not independent. Bands (where "
        "there is more than one replication): 95 % Student-t confidence intervals; common random numbers across "
        f"policies; {sample(summary, about)}."
    )


def _draw(curves: dict[str, pl.DataFrame], labels: Mapping[str, str]) -> Figure:
    looks = style.styles(labels)
    figure = style.new_figure(style.TWO_COLUMNS, PANEL_HEIGHT + 0.62, style.handles(labels, looks))
    rates = np.unique(np.concatenate([curve["rate"].to_numpy() for curve in curves.values()])).tolist()
    left, gap = 0.5, 0.16
    width = (style.TWO_COLUMNS - left - 0.08 - gap * (len(rates) - 1)) / len(rates)
    panels: list[Axes] = []
    for place, rate in enumerate(rates):
        first = panels[0] if panels else None
        axes = style.add_axes(figure, left + place * (width + gap), 0.42, width, PANEL_HEIGHT, sharey=first)
        at_rate = {key: curve.filter(pl.col("rate") == rate) for key, curve in curves.items()}
        style.plot_curves(axes, at_rate, looks, "mean_latency", x="requests")
        _label(axes)
        style.panel_title(axes, "abcdefghijklmnopqrstuvwxyz"[place % 26], f"λ = {rate:g} requests/s")
        if panels:
            axes.tick_params(axis="y", labelleft=False)
        panels.append(axes)
    panels[0].set_yscale("log")
    panels[0].set_ylim(*_limits(curves))
    style.plain_log_axis(panels[0].yaxis)
    panels[0].set_ylabel("mean latency (s)")
    return figure


def _label(axes: Axes) -> None:
    axes.set_xlabel("number of requests N")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))


def _limits(curves: dict[str, pl.DataFrame]) -> tuple[float, float]:
    """Of the means: the lower end of a wide interval may be below zero, where a logarithmic axis has no place."""
    means = np.concatenate([curve["mean_latency"].to_numpy() for curve in curves.values()])
    return means.min() / 1.4, means.max() * 1.6
