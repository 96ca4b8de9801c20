"""Largest difference, over all requests, between the compiled simulator and the real Vidur under the same policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import highest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table, shown

INPUTS = ("audit.csv",)
"""Files read, below the folder of the experiment."""

AGREED = 1e-9
"""Seconds within which the two engines must agree on every request."""

TIMES = ("max_abs_first_token", "max_abs_completion")
ZERO = 1e-17  # s, where an exact zero is drawn on the logarithmic axis
AGREED_LINE = {"color": style.INK, "linestyle": style.DOTTED, "linewidth": 1.0}


def check(setting: Any, scale: str) -> None:
    """Refuse an experiment without an audit.

    Raises:
        ConfigError: nothing is repeated in Vidur at this scale.
    """
    if not (setting.experiment.scale(scale).audit_requests and setting.experiment.audit_share):
        raise ConfigError("'audit' needs audit_requests of the scale and audit_share above 0")


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_audit: figure}``: the larger of the two differences at each rate, over replications.

    Reads ``audit.csv`` (policy, rate, max_abs_first_token, max_abs_completion, both in s).

    Raises:
        ConfigError: no policy shown has an audit, a column is missing, or a value is not a number.
    """
    about = shown(experiment, results_dir)
    curves = _curves(Path(results_dir) / "audit.csv", about.labels)
    with style.journal():
        return _draw(curves, about.labels)


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about = shown(experiment, results_dir)
    curves = _curves(Path(results_dir) / "audit.csv", about.labels)
    largest = max(highest(curve["largest"]) for curve in curves.values())
    return (
        f"{about.title}. Largest difference of first-token and completion times between the compiled simulator and "
        f"Vidur, over all requests and {sum(curve['runs'].sum() for curve in curves.values())} runs: at most "
        f"{largest:.1e} s (demanded: {AGREED:.0e} s). Scale '{about.scale}'."
    )


def _curves(path: Path, labels: Mapping[str, str]) -> dict[str, pl.DataFrame]:
    table = read_table(path, ("rate", *TIMES), text=("policy",))
    parts = {key: table.filter(pl.col("policy") == key) for key in labels}
    if all(part.is_empty() for part in parts.values()):
        raise ConfigError(f"{path}: no audit of any policy shown ({', '.join(labels)})")
    return {
        key: part.group_by("rate").agg(largest=pl.max_horizontal(pl.col(*TIMES).max()), runs=pl.len()).sort("rate")
        for key, part in parts.items()
        if not part.is_empty()
    }


def _draw(curves: dict[str, pl.DataFrame], labels: Mapping[str, str]) -> Figure:
    looks = style.styles(labels)
    entries = style.handles({key: labels[key] for key in curves}, looks)
    entries.append(Line2D([], [], label=f"demanded: {AGREED:.0e} s", **AGREED_LINE))
    height = 2.3
    figure = style.new_figure(style.MIDDLE, height, entries)
    axes = style.add_axes(figure, 0.62, 0.42, style.MIDDLE - 0.72, height - 0.5)
    for place, (key, curve) in enumerate(curves.items()):
        drawn = np.maximum(curve["largest"].to_numpy(), ZERO)
        options = looks[key].options() | {"markerfacecolor": "none", "markersize": 3.6 + 2.2 * place}  # equal ones nest
        axes.plot(curve["rate"], drawn, **options, label=key, zorder=3 + 0.01 * place)
    axes.axhline(AGREED, **AGREED_LINE)
    most = max(AGREED, *(highest(curve["largest"]) for curve in curves.values()))
    axes.set(yscale="log", ylim=(ZERO / 3, most * 10))
    decades = [10.0**power for power in range(-15, int(np.ceil(np.log10(most))) + 1, 2)]
    axes.yaxis.set_major_locator(FixedLocator([ZERO, *decades]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == ZERO else f"{value:.0e}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    style.rate_axis(axes)
    axes.set_ylabel("largest difference (s)")
    return figure
