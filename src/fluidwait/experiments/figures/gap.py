"""Latency of every policy relative to a baseline at equal arrival rate, paired by replication."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import column_names
from fluidwait.drawing import style
from fluidwait.drawing.reading import Shown, read_table, sample, shown

INPUTS = ("summary.csv", "stability.csv", "metrics/{policy}.csv")
"""Files read, below the folder of the experiment; one metrics table per policy shown."""

REPLICATION = ("replication", "rep")
"""Names a metrics table may give the replication; equal numbers share arrivals and lengths."""


def check(setting: Any, scale: str) -> None:
    """Refuse an experiment with one policy.

    Raises:
        ConfigError: there is nothing to compare.
    """
    keys = list(setting.experiment.policies)
    if len(keys) < 2:
        raise ConfigError(f"'gap' compares policies, and there is only '{keys[0]}'; leave it out or add one")


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_gap: figure}``: the relative difference of mean latency to the experiment's ``baseline``, percent.

    Reads ``metrics/<policy>.csv`` (rate, replication, mean_latency) of every policy and ``stability.csv`` (policy,
    lambda_star, which may be empty).

    Raises:
        ConfigError: a file or a column is missing, a value is not a number, a policy shares no run with the baseline.
    """
    about = shown(experiment, results_dir)
    base = _runs(Path(results_dir), about.baseline)
    gaps = {}
    for key in about.labels:
        if key != about.baseline:
            gaps[key] = relative_gap(_runs(Path(results_dir), key), base)
            if gaps[key].is_empty():
                path = Path(results_dir) / "metrics" / f"{key}.csv"
                raise ConfigError(f"{path}: no rate and replication in common with policy '{about.baseline}'")
    if not gaps:
        raise ConfigError("experiment: labels: a gap needs a policy besides the baseline")
    with style.journal():
        return _draw(about, gaps, _stars(Path(results_dir) / "stability.csv", about))


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about, path = shown(experiment, results_dir), Path(results_dir) / "summary.csv"
    summary = read_table(path, ("requests", "replications"), ("policy",))
    known = _stars(Path(results_dir) / "stability.csv", about)
    marks = "triangles at the top: stability boundaries λ*, by bisection; " if known else ""
    return (
        f"{about.title}. Mean latency relative to {about.labels[about.baseline]} at the same arrival rate; negative is "
        f"faster. The axis is linear within ±{style.LINEAR_PERCENT:g} % and logarithmic beyond. Ratio of means over "
        "replications; bands (where there is more than one): 95 % confidence intervals of that ratio from differences "
        f"paired by replication (common random numbers); {marks}{sample(summary, about)}."
    )


def relative_gap(runs: pl.DataFrame, base: pl.DataFrame, level: float = 0.95) -> pl.DataFrame:
    """Relative difference of mean latency, percent, by rate, over the replications that both have.

    With x_i, y_i the mean latencies of policy and baseline in replication i, and R = mean(x) / mean(y), the gap is
    100 (R - 1). Its interval is that of the ratio estimator: the residuals x_i - R y_i have mean 0, and the standard
    error of R is sd(x_i - R y_i) / (sqrt(n) mean(y)), with the Student-t quantile of n - 1 degrees of freedom.

    Args:
        runs, base: columns rate, replication, mean_latency (s).

    Returns:
        Columns rate, gap, gap_low, gap_high (NaN with one replication), replications; sorted by rate.
    """
    pairs = runs.join(base, on=["rate", "replication"], suffix="_base").sort("rate", "replication")
    rows = []
    for (rate,), pair in pairs.group_by("rate", maintain_order=True):
        x, y = pair["mean_latency"].to_numpy(), pair["mean_latency_base"].to_numpy()
        ratio, n, half = x.mean() / y.mean(), len(x), np.nan
        if n > 1:
            error = np.std(x - ratio * y, ddof=1) / (np.sqrt(n) * y.mean())
            half = 100.0 * error * scipy.special.stdtrit(n - 1, (1 + level) / 2)
        gap = 100.0 * (ratio - 1.0)
        rows.append({"rate": rate, "gap": gap, "gap_low": gap - half, "gap_high": gap + half, "replications": n})
    names = ("rate", "gap", "gap_low", "gap_high")
    return pl.DataFrame(rows, schema={**dict.fromkeys(names, pl.Float64), "replications": pl.Int64})


def _runs(folder: Path, key: str) -> pl.DataFrame:
    path = folder / "metrics" / f"{key}.csv"
    header = column_names(path)
    replication = next((name for name in REPLICATION if name in header), REPLICATION[0])
    return read_table(path, ("rate", replication, "mean_latency")).rename({replication: "replication"})


def _stars(path: Path, about: Shown) -> dict[str, float]:
    """λ* by bisection, requests/s, of the policies shown that have one."""
    table = read_table(path, (), ("policy",), ("lambda_star",)).filter(pl.col("lambda_star").is_finite())
    found = dict(zip(table["policy"], table["lambda_star"], strict=True))
    return {key: found[key] for key in about.labels if key in found}


def _draw(about: Shown, gaps: dict[str, pl.DataFrame], stars: dict[str, float]) -> Figure:
    looks = style.styles(about.labels)  # of all policies, so that each looks as in the other figures
    entries = style.handles({key: about.labels[key] for key in gaps}, looks)
    base = {"color": looks[about.baseline].color, "linewidth": 1.1}
    entries.append(Line2D([], [], label=f"{about.labels[about.baseline]} (= 0)", **base))
    height = 2.9
    figure = style.new_figure(style.MIDDLE, height, entries)
    axes = style.add_axes(figure, 0.62, 0.42, style.MIDDLE - 0.72, height - 0.48)
    axes.axhline(0.0, **base, zorder=2.5)
    style.plot_curves(axes, gaps, looks, "gap")
    style.percent_axis(axes, np.concatenate([gap["gap"].to_numpy() for gap in gaps.values()]))
    style.rate_axis(axes)
    for key, star in stars.items():
        axes.plot(
            [star], [1.0], marker=CARETDOWN, markersize=4.5, color=looks[key].color, linestyle="none",
            markeredgewidth=0.0, transform=axes.get_xaxis_transform(), clip_on=False, label=f"_λ* {key}", zorder=4,
        )  # fmt: skip
    axes.set(ylabel="relative difference of mean latency (%)")
    return figure
