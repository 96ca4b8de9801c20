"""Our latencies of the single-type experiment beside the published ones, and what is left of the distance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import highest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table, runs, shown
from fluidwait.drawing.style import Style

INPUTS = ("reference.csv", "summary.csv")
"""Files read, below the folder of the experiment."""

POLICIES = {"sarathi": "Sarathi", "wait": "WAIT"}
"""The published series, by their key in the table."""

VARIANTS = {
    "exact": ("ours, exact Poisson arrivals", Style(style.INK, "o", True, style.SOLID)),
    "stream": ("ours, the published arrivals", Style(style.INK, "D", True, style.DASH_DOT)),
    "replayed": ("the earlier code, replayed", Style(style.INK, "v", True, style.SOLID)),
    "truncated": ("ours, gaps cut at 3/λ", Style(style.INK, "s", False, style.DASHED)),
    "gated": ("ours, exact, gate on", Style(style.INK, "^", False, style.DOTTED)),
}
"""Our runs, by their columns in the table: what they are called and how they look, but for the policy's colour."""

IN_LATENCY = ("exact", "replayed")  # drawn in the latency panel too
SINGLE = ("stream", "replayed")  # one run, as published: no interval
ENDS = {name: ("",) if name in SINGLE else ("", "_low", "_high") for name in VARIANTS}
BANDED = "exact"  # the one with its confidence band among the distances, where all bands would cover each other
PUBLISHED_LINE = {"linestyle": (0, (1.0, 1.0)), "linewidth": 2.6, "alpha": 0.5}


def make(results_dir: str | Path, experiment: Mapping[str, Any]) -> Figure:
    """``{<id>_reference: figure}``: latencies (a), and the distance of ours in percent for each policy (b, c).

    Reads ``reference.csv``: policy (sarathi or wait), rate, published (s), and for each of :data:`VARIANTS` its mean
    latency, with _low and _high unless it is of one run (s; empty where a policy has no such run).

    Raises:
        ConfigError: the file or a column is missing, a value is not a number, or there is no published policy.
    """
    shown(experiment, results_dir)
    curves = _curves(Path(results_dir) / "reference.csv")
    with style.journal():
        return _draw(curves)


def caption(results_dir: str | Path, experiment: Mapping[str, Any]) -> str:
    """The caption of :func:`make`."""
    about, folder = shown(experiment, results_dir), Path(results_dir)
    summary = read_table(folder / "summary.csv", ("requests", "replications"), ("policy",))  # of the same scale
    curves = _curves(folder / "reference.csv")
    return (
        f"{about.title}. Our runs with the settings of the published ones, beside the latencies published with the "
        "paper's earlier code (wide dotted lines). (a) Mean latency, logarithmic. (b, c) Distance of ours, linear "
        f"within ±{style.LINEAR_PERCENT:g} % and logarithmic beyond; {_distances(curves)}. Bands (where there is more "
        f"than one replication; in b and c for exact arrivals only): 95 % Student-t confidence intervals. "
        f"{runs(summary)}, all requests counted as in the published runs, scale '{about.scale}'."
    )


def _distances(curves: Mapping[str, pl.DataFrame]) -> str:
    """Largest distance of every policy: our model on the published arrivals, and the earlier code replayed."""
    parts = []
    for key, curve in curves.items():
        ours, replayed = (highest(curve[f"{name}_distance"].abs()) for name in ("stream", "replayed"))
        parts.append(
            f"{POLICIES[key]} on the published arrivals: at most {ours:.1f} % with our iteration times and scheduler, "
            f"at most {replayed:.1f} % with those of the earlier code"
        )
    return "; ".join(parts)


def _curves(path: Path) -> dict[str, pl.DataFrame]:
    """The rows of each policy, with the distance of every variant and its bounds in percent."""
    ours = [f"{name}{end}" for name in VARIANTS for end in ENDS[name]]
    table = read_table(path, ("rate", "published"), ("policy",), ours)
    distances = (
        (100.0 * (pl.col(f"{name}{end}") / pl.col("published") - 1.0)).alias(f"{name}_distance{end}")
        for name in VARIANTS
        for end in ENDS[name]
    )
    table = table.with_columns(*distances).sort("rate")
    curves = {key: table.filter(pl.col("policy") == key) for key in POLICIES}
    curves = {key: curve for key, curve in curves.items() if not curve.is_empty()}
    if not curves:
        raise ConfigError(f"{path}: column 'policy': no published policy (valid: {', '.join(POLICIES)})")
    return curves


def _draw(curves: dict[str, pl.DataFrame]) -> Figure:
    looks = {name: look for name, (_, look) in VARIANTS.items()}
    entries = [Line2D([], [], label="published", color=style.INK, **PUBLISHED_LINE)]
    entries += style.handles({name: label for name, (label, _) in VARIANTS.items()}, looks)
    height, across = 2.5, 1.8
    figure = style.new_figure(style.TWO_COLUMNS, height, entries)
    places = (0.5, 2.93, 5.22)
    panels = [style.add_axes(figure, left, 0.42, across, height - 0.62) for left in places[: 1 + len(curves)]]
    _latency_panel(panels[0], curves)
    for letter, (key, curve), axes in zip("bc", curves.items(), panels[1:], strict=False):
        _distance_panel(axes, letter, key, curve)
    for axes in panels:
        style.rate_axis(axes)
    panels[1].set_ylabel("distance to published (%)")
    return figure


def _latency_panel(axes: Axes, curves: dict[str, pl.DataFrame]) -> None:
    for key, curve in curves.items():
        color = _color(key)
        axes.plot(curve["rate"], curve["published"], color=color, **PUBLISHED_LINE, label=f"{key} published")
        for name in IN_LATENCY:
            look = VARIANTS[name][1]._replace(color=color)
            if name in SINGLE:
                axes.plot(curve["rate"], curve[name], **look.options(), label=f"{key} {name}", zorder=3)
            else:
                style.plot_curves(axes, {f"{key} {name}": curve}, {f"{key} {name}": look}, name)
    values = np.concatenate([curve[name] for curve in curves.values() for name in ("published", *IN_LATENCY)])
    axes.set(yscale="log", ylim=(0.93 * np.nanmin(values), 1.1 * np.nanmax(values)), ylabel="mean latency (s)")
    style.plain_log_axis(axes.yaxis)
    style.panel_title(axes, "a", " and ".join(POLICIES[key] for key in curves))


def _distance_panel(axes: Axes, letter: str, key: str, curve: pl.DataFrame) -> None:
    axes.axhline(0.0, color=_color(key), **PUBLISHED_LINE, zorder=1.5)
    shown_here = [name for name in VARIANTS if curve[name].is_finite().any()]
    for name in shown_here:
        look = VARIANTS[name][1]._replace(color=_color(key))
        if name == BANDED:
            style.plot_curves(axes, {name: curve}, {name: look}, f"{name}_distance")
        else:
            axes.plot(curve["rate"], curve[f"{name}_distance"], **look.options(), label=name, zorder=3)
    style.percent_axis(axes, np.concatenate([curve[f"{name}_distance"] for name in shown_here]))
    style.panel_title(axes, letter, POLICIES[key])


def _color(key: str) -> str:
    return style.FAMILIES[key][0].color
