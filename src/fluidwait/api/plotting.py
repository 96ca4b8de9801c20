"""A figure of a sweep, in the style of the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.stats.metrics import Metrics, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = {
    "mean_latency": "mean latency (s)",
    "median_latency": "median latency (s)",
    "p95_latency": "95 % latency (s)",
    "p99_latency": "99 % latency (s)",
    "mean_ttft": "mean time to first token (s)",
    "mean_tpot": "mean time per output token (s)",
    "completion_rate": "completions (requests/s)",
    "token_throughput": "output tokens/s",
    "mean_in_system": "mean number in system",
    "evictions_per_request": "evictions per request",
}
"""What stands at the axis; another metric has its name there."""


def plot(table: pl.DataFrame, metric: str = "mean_latency") -> Figure:
    """A metric against the rate: a line per policy, with 95 % confidence bands where there are replications.

    Args:
        table: what :func:`~fluidwait.api.sweeping.sweep` returns, or rows of it.
        metric: a field of :class:`~fluidwait.stats.metrics.Metrics`.

    Returns:
        The figure, which a notebook shows and ``savefig`` writes.

    Raises:
        ConfigError: no such metric, or a table that does not come from a sweep.
    """
    from fluidwait.drawing import style

    if metric not in Metrics._fields:
        raise ConfigError(f"plot: no metric '{metric}'{nearest(metric, Metrics._fields)}")
    if missing := {"policy", "rate", metric} - set(table.columns):
        raise ConfigError(f"plot: no column '{min(missing)}'; give the table that sweep returned")
    means = summarise(table, ["policy", "rate"])
    keys = table["policy"].unique(maintain_order=True).to_list()
    curves = {key: means.filter(pl.col("policy") == key) for key in keys}
    with style.journal():
        looks = style.styles(keys)
        figure = style.new_figure(style.ONE_COLUMN, 2.5, style.handles({key: key for key in keys}, looks))
        axes = style.add_axes(figure, 0.5, 0.42, style.ONE_COLUMN - 0.58, 2.0)
        style.plot_curves(axes, curves, looks, metric)
        style.rate_axis(axes)
        axes.set_ylabel(WORDS.get(metric, metric))
    return figure
