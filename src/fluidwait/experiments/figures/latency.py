"""Mean latency and effective completion rate against the arrival rate, with the stability boundary of every policy.

Latency has two regimes: below the boundary policies differ by percents, beyond it by tens of seconds. One axis shows
both: linear up to ``BREAK`` times the lowest latency, logarithmic from there on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from fluidwait.drawing import style
from fluidwait.drawing.reading import Shown, of_policy, read_json, read_table, sample, shown

INPUTS = ("summary.csv", "stability.csv", "thresholds.json")
"""Files read, below the folder of the experiment."""

BREAK = 2.5
"""Latency, as a multiple of the lowest in the figure, at about which the axis turns logarithmic."""

METRICS = ("mean_latency", "completion_rate")
STABILITY = ("lambda_star", "lambda_star_low", "lambda_star_high", "grid_lambda_star", "predicted")
IDEAL_LINE = {"color": style.FAINT, "linestyle": "-", "linewidth": 0.9}


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_latency: figure}``: latency (a), completion rate (b) and stable rates (c).

    Reads ``summary.csv`` (policy, rate, mean_latency, completion_rate and their _low and _high), ``stability.csv``
    (policy; lambda_star with _low and _high, grid_lambda_star and predicted, each of which may be empty) and
    ``thresholds.json`` (fluid_bound).

    Raises:
        ConfigError: a file, a column or a policy is missing, or a value is not a number.
    """
    about, folder = shown(experiment, results_dir), Path(results_dir)
    curves = _curves(folder / "summary.csv", about)
    stability = read_table(folder / "stability.csv", (), ("policy",), STABILITY)
    stable = {key: of_policy(stability, key, folder / "stability.csv").row(0, named=True) for key in about.labels}
    edge = read_json(folder / "thresholds.json", "fluid_bound")["fluid_bound"]
    with style.journal():
        return _draw(about, curves, stable, float(edge))


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about, folder = shown(experiment, results_dir), Path(results_dir)
    summary = read_table(folder / "summary.csv", ("requests", "replications"), ("policy",))
    return (
        f"{about.title}. (a) Mean end-to-end latency against the arrival rate; the axis is linear below the grey line "
        "and logarithmic above it. (b) Effective completion rate in the measurement window, with the ideal line. (c) "
        f"{_words(folder, about)}; the black tick is the predicted boundary of the policy where there is one. "
        "Dotted: fluid bound, the calibrated fluid model with the engine's memory, without a policy's limits. "
        "Bands (where there is more than one replication): 95 % "
        f"Student-t confidence intervals; common random numbers across policies; {sample(summary, about)}."
    )


def _words(folder: Path, about: Shown) -> str:
    """What panel (c) shows."""
    if not about.constant_rate:
        return "The rate of the arrivals changes, so there is no λ*"
    marker = "Rates at which each policy is stable: the marker is λ*, "
    stability = read_table(folder / "stability.csv", (), ("policy",), STABILITY)
    if stability["lambda_star"].is_finite().any():
        return f"{marker}found by bisection, with its 95 % confidence interval (often narrower than the marker)"
    return f"{marker}the largest stable rate of the grid; the thin line reaches to the first unstable one"


def _curves(path: Path, about: Shown) -> dict[str, pl.DataFrame]:
    bounds = [f"{metric}_{end}" for metric in METRICS for end in ("low", "high")]
    summary = read_table(path, ("rate", *METRICS), ("policy",), bounds)
    return {key: of_policy(summary, key, path) for key in about.labels}


def _draw(about: Shown, curves: dict[str, pl.DataFrame], stable: dict[str, dict], edge: float) -> Figure:
    looks = style.styles(about.labels)
    entries = style.handles(about.labels, looks)
    entries.append(Line2D([], [], label="ideal: completion = arrival", **IDEAL_LINE))
    entries.append(Line2D([], [], label=f"calibrated fluid boundary, {edge:.1f}/s", **style.BOUNDARY))
    height, bottom, top = 3.25, 0.42, 0.2
    figure = style.new_figure(style.TWO_COLUMNS, height, entries)
    left, right, up = 0.5, 4.13, height - top
    strip = 0.1 * len(about.labels) + 0.14
    across = style.TWO_COLUMNS - right - 0.08
    latency = style.add_axes(figure, left, bottom, 2.95, up - bottom)
    completion = style.add_axes(figure, right, bottom + strip + 0.28, across, up - bottom - strip - 0.28)
    stable_rates = style.add_axes(figure, right, bottom, across, strip)
    rates = np.unique(np.concatenate([curve["rate"].to_numpy() for curve in curves.values()]))
    _latency_panel(latency, curves, looks)
    _completion_panel(completion, curves, looks)
    _stable_panel(stable_rates, rates, stable, looks, about.constant_rate)
    for axes in figure.axes:
        margin = 0.03 * (rates[-1] - rates[0]) or 1.0
        axes.set_xlim(rates[0] - margin, rates[-1] + margin)
        axes.axvline(edge, **style.BOUNDARY, zorder=1.5)
    return figure


def _latency_panel(axes: Axes, curves: dict, looks: dict) -> None:
    values = np.concatenate([curve["mean_latency"].to_numpy() for curve in curves.values()])
    lowest, highest = np.nanmin(values), np.nanmax(values)
    turn = _nice_above(BREAK * lowest)
    style.plot_curves(axes, curves, looks, "mean_latency")
    style.linear_log_axis(axes, lowest - 0.06 * (turn - lowest), turn, highest * 1.1)
    style.rate_axis(axes)
    axes.set_ylabel("mean latency (s)")
    style.panel_title(axes, "a")


def _completion_panel(axes: Axes, curves: dict, looks: dict) -> None:
    highest = max(curve["completion_rate"].max() for curve in curves.values())
    lowest = min(curve["completion_rate"].min() for curve in curves.values())
    axes.axline((0.0, 0.0), slope=1.0, **IDEAL_LINE, zorder=1)
    style.plot_curves(axes, curves, looks, "completion_rate")
    axes.set_ylim(lowest - 0.06 * (highest - lowest), highest + 0.12 * (highest - lowest))
    style.rate_axis(axes)
    axes.tick_params(axis="x", labelbottom=False)
    axes.set_xlabel("")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    axes.set_ylabel("completions (requests/s)")
    style.panel_title(axes, "b")


def _stable_panel(axes: Axes, rates: np.ndarray, stable: dict[str, dict], looks: dict, constant: bool) -> None:
    """One row per policy: a bar up to λ*, its interval or the step of the grid, a tick at the prediction."""
    for row, (key, values) in enumerate(stable.items()):
        look, (star, low, high) = looks[key], _interval(values, rates)
        if np.isfinite(star):
            axes.plot([rates[0], star], [row, row], color=look.color, linewidth=1.6, solid_capstyle="butt", zorder=2)
            axes.plot([low, high], [row, row], color=look.color, linewidth=0.6, zorder=2)
            axes.plot([star], [row], **(look.options() | {"linestyle": "none"}), label=key, zorder=3)
        else:
            why = f"none: unstable at {rates[0]:g}" if constant else "none: the rate changes"
            axes.annotate(why, (rates[0], row), va="center", fontsize=6.0, color=look.color)
        if np.isfinite(values["predicted"]):
            axes.plot([values["predicted"]], [row], marker="|", color=style.INK, markersize=6.0, markeredgewidth=1.0)
    axes.set_ylim(len(stable) - 0.4, -0.6)
    style.rate_axis(axes)
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines["left"].set_visible(False)
    style.panel_title(axes, "c", "stable rates, up to λ*")


def _interval(values: dict, rates: np.ndarray) -> tuple[float, float, float]:
    """(λ*, low, high): by bisection with its interval, else on the grid ``rates`` up to the first unstable one."""
    if np.isfinite(values["lambda_star"]):
        return values["lambda_star"], values["lambda_star_low"], values["lambda_star_high"]
    star = values["grid_lambda_star"]
    following = rates[rates > star]
    return star, star, following[0] if len(following) else np.nan


def _nice_above(value: float) -> float:
    """The smallest of 1, 1.5, 2, 3, 5, 7 times a power of ten that is at least ``value``."""
    decade = 10.0 ** np.floor(np.log10(value))
    return float(next(digit * decade for digit in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0) if digit * decade >= value))
