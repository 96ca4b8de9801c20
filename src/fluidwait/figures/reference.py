"""Our latencies of the single-type experiment beside the published ones, and the distance at every point."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.config import ConfigError, nearest
from fluidwait.figures import style
from fluidwait.figures.tables import of_policy, read_table, sample, shown

INPUTS = ("reference.csv", "summary.csv")
"""Files read, below the folder of the experiment."""

RATES = tuple(float(rate) for rate in range(12, 25))  # requests/s

PUBLISHED = {
    "sarathi": (0.4087, 0.4373, 0.4690, 0.5047, 0.5451, 0.5926, 0.6455, 0.7047, 0.7730, 0.8617, 0.9847, 1.2548, 2.6675),
    "wait": (0.3944, 0.4215, 0.4511, 0.4841, 0.5229, 0.5678, 0.6190, 0.6756, 0.7436, 0.8300, 0.9505, 1.2062, 1.7354),
}
"""Mean latency, s, at :data:`RATES`, published with the paper's earlier code: Llama-2-7B on one A100-80GB, 1 % memory
margin, 512 prompt and 20 output tokens, N = 5,000. Sarathi: token budget 512, request cap 256. WAIT: chunk 256, gate
on, 20 requests in service, 30 at 24 requests/s."""

COLUMNS = ("rate", "published", "mean_latency")
BOUNDS = ("mean_latency_low", "mean_latency_high")
PUBLISHED_LINE = {"linestyle": (0, (1.0, 1.0)), "linewidth": 2.6, "alpha": 0.55}


def reference_table(summary: pl.DataFrame, series: Mapping[str, str]) -> pl.DataFrame:
    """The published reference against ours: what ``reference.csv`` holds, one row per policy and published rate.

    Args:
        summary: columns policy, label, rate, mean_latency, mean_latency_low, mean_latency_high.
        series: policy key to the series of :data:`PUBLISHED` it is compared with.

    Returns:
        Columns policy, label, series, rate, published (s), the three of ours (s), distance (ours / published - 1).

    Raises:
        ConfigError: an unknown series, or a policy without any published rate.
    """
    parts = []
    for key, name in series.items():
        if name not in PUBLISHED:
            raise ConfigError(f"reference: {key}: '{name}' is not published{nearest(name, list(PUBLISHED))}")
        known = pl.DataFrame({"rate": RATES, "published": PUBLISHED[name]}).with_columns(series=pl.lit(name))
        ours = summary.filter(pl.col("policy") == key).with_columns(pl.col("rate").cast(pl.Float64))
        rows = ours.join(known, on="rate").sort("rate")
        if rows.is_empty():
            raise ConfigError(f"reference: {key}: the summary has none of the published rates of this policy")
        parts.append(rows.select("policy", "label", "series", *COLUMNS, *BOUNDS))
    return pl.concat(parts).with_columns(distance=pl.col("mean_latency") / pl.col("published") - 1.0)


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> dict[str, Figure]:
    """``{<id>_reference: figure}``: latencies (a) and distance in percent (b).

    Reads ``reference.csv`` with the columns policy, rate, published, mean_latency and its _low and _high; only
    policies among the experiment's labels are drawn.

    Raises:
        ConfigError: the file or a column is missing, a value is not a number, or no policy shown has a reference.
    """
    about, path = shown(experiment, results_dir), Path(results_dir) / "reference.csv"
    curves = _curves(path, about.labels)
    with style.journal():
        return {f"{about.id}_reference": _draw(curves, about.labels)}


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> dict[str, str]:
    """The caption of each figure of :func:`make`."""
    about, folder = shown(experiment, results_dir), Path(results_dir)
    summary = read_table(folder / "summary.csv", ("requests", "replications"), ("policy",))
    farthest = "; ".join(
        f"{about.labels[key]} {curve['distance'].min():+.1f} % to {curve['distance'].max():+.1f} %"
        for key, curve in _curves(folder / "reference.csv", about.labels).items()
    )
    text = (
        f"{about.title}. (a) Mean latency of our runs beside the reference published with the paper's earlier code "
        "(wide dotted lines), logarithmic. (b) Distance of ours to the reference, linear within "
        f"±{style.LINEAR_PERCENT:g} % and logarithmic beyond: "
        f"{farthest}. Bands (where there is more than one replication): 95 % Student-t confidence intervals of our "
        f"means; {sample(summary, about.scale)}."
    )
    return {f"{about.id}_reference": text}


def _curves(path: Path, labels: Mapping[str, str]) -> dict[str, pl.DataFrame]:
    table = read_table(path, COLUMNS, ("policy",), BOUNDS).with_columns(
        (100.0 * (pl.col(ours) / pl.col("published") - 1.0)).alias(name)
        for ours, name in zip(("mean_latency", *BOUNDS), ("distance", "distance_low", "distance_high"), strict=True)
    )
    present = set(table["policy"])
    curves = {key: of_policy(table, key, path) for key in labels if key in present}
    if not curves:
        raise ConfigError(f"{path}: column 'policy': none of the experiment's policies{nearest('', sorted(present))}")
    return curves


def _draw(curves: dict[str, pl.DataFrame], labels: Mapping[str, str]) -> Figure:
    looks = style.styles(labels)
    entries = []
    for key in curves:
        entries += style.handles({key: f"{labels[key]} (ours)"}, looks)
        entries.append(Line2D([], [], label="its published reference", color=looks[key].color, **PUBLISHED_LINE))
    height, across = 2.5, 2.95
    figure = style.new_figure(style.TWO_COLUMNS, height, entries)
    latency = style.add_axes(figure, 0.5, 0.42, across, height - 0.62)
    distance = style.add_axes(figure, style.TWO_COLUMNS - across - 0.08, 0.42, across, height - 0.62)
    for key, curve in curves.items():
        latency.plot(
            curve["rate"], curve["published"], color=looks[key].color, **PUBLISHED_LINE, label=f"{key} published"
        )
    style.plot_curves(latency, curves, looks, "mean_latency")
    latency.set(yscale="log", xlabel=style.RATE_LABEL, ylabel="mean latency (s)")
    values = np.concatenate([curve[name] for curve in curves.values() for name in ("published", "mean_latency")])
    latency.set_ylim(0.93 * values.min(), 1.1 * values.max())
    style.plain_log_axis(latency.yaxis)
    style.panel_title(latency, "a")
    distance.axhline(0.0, color=style.INK, linewidth=0.8, zorder=1.5)
    style.plot_curves(distance, curves, looks, "distance")
    distance.set(xlabel=style.RATE_LABEL, ylabel="ours against published (%)")
    style.percent_axis(distance, np.concatenate([curve["distance"] for curve in curves.values()]))
    style.panel_title(distance, "b")
    return figure
