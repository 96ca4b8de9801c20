"""E10: latency of the policies inside the engine, and how it differs from the engine's own scheduler."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fluidwait.base.tables import highest, load_table, lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table
from fluidwait.real.bundle import Bundle
from fluidwait.real.figures.words import looks, origin, stamp

INPUTS = ("summary.csv", "gain.csv")
WITH_RUNS = ()

LATENCY, GAIN, LEFT, BOTTOM, GAP = 1.7, 1.1, 0.55, 0.52, 0.5  # inches
DODGE = 0.025  # of the range of rates, between the bars of two policies
LEAST = 3  # replications for an interval
ROW, MOST = 0.62, 4  # inches between two rows of panels; columns of a single row
NAMES = {
    "single": "single type",
    "memory": "little memory",
    "lmsys": "lmsys lengths",
    "long_decode": "long outputs, little memory",
    "prompt_heavy": "long prompts",
    "two": "two types",
    "mixture": "mixed outputs, little memory",
    "paper_single": "single type, WAIT",
    "paper_lmsys": "lmsys lengths, Nested WAIT",
}


def make(folder: Path, bundle: Bundle, fresh: bool) -> Figure:
    """A column per variant: mean latency (above), reduction against vLLM's own scheduler (below)."""
    if not bundle.has_runs():
        return _nothing(bundle, fresh)
    bounds = ("mean_latency_low", "mean_latency_high")
    summary = read_table(
        folder / "summary.csv", ("rate", "mean_latency", "replications"), ("variant", "policy"), bounds
    )
    summary = _told(summary, "mean_latency")
    gain = _told(
        read_table(
            folder / "gain.csv",
            ("reduction", "replications"),
            ("variant", "policy"),
            ("rate", "reduction_low", "reduction_high"),
        ),
        "reduction",
    )
    chosen, variants = looks(bundle), _variants(bundle, summary)
    labels = {key: curve.label for key, curve in bundle.target.policies.items() if key in set(summary["policy"])}
    columns = len(variants) if len(variants) <= MOST else 3
    rows = -(-len(variants) // columns)
    width = (style.TWO_COLUMNS - LEFT - 0.08 - GAP * (columns - 1)) / columns
    panel = GAIN + 0.22 + LATENCY
    with style.journal():
        height = BOTTOM + rows * panel + (rows - 1) * ROW + 0.26
        figure = style.new_figure(style.TWO_COLUMNS, height, style.handles(labels, chosen))
        for place, name in enumerate(variants):
            left = LEFT + place % columns * (width + GAP)
            bottom = BOTTOM + (rows - 1 - place // columns) * (panel + ROW)
            upper = style.add_axes(figure, left, bottom + GAIN + 0.22, width, LATENCY)
            lower = style.add_axes(figure, left, bottom, width, GAIN, sharex=upper)
            _latency(upper, summary.filter(pl.col("variant") == name), chosen)
            _gain(lower, gain.filter((pl.col("variant") == name) & pl.col("rate").is_not_nan()), chosen)
            style.panel_title(upper, ascii_lowercase[place], NAMES.get(name, name))
            if place % columns == 0:
                upper.set_ylabel("mean latency (s)")
                lower.set_ylabel("reduction (%)")
        figure.text(0.995, 0.008, stamp(bundle, fresh), ha="right", va="bottom", fontsize=5.5, color=style.FAINT)
        return figure


def caption(folder: Path, bundle: Bundle, fresh: bool) -> str:
    target = bundle.target
    if not bundle.has_runs():
        return f"E10. {origin(bundle, fresh)} The recording was cut short before its first run."
    titles = "; ".join(
        f"({ascii_lowercase[i]}) {v.title}, N = {v.requests}, {v.replications} replication{'s' * (v.replications > 1)}"
        for i, v in enumerate(target.variants[name] for name in _variants(bundle, load_table(folder / "summary.csv")))
    )
    overall = load_table(folder / "gain.csv").filter(pl.col("share").is_null())
    found = "; ".join(
        f"{r['label']}, {NAMES.get(r['variant'], r['variant'])}: {_interval(r, 'reduction')}"
        for r in overall.to_dicts()
    )
    paced = "; ".join(_interval(r, "paced_reduction") for r in overall.to_dicts())
    metered = f" With latencies at the machine's pace in the calibration, in this order: {paced}."
    return (
        f"E10. {origin(bundle, fresh)} {titles}. Above: mean end-to-end latency of the central "
        f"{100 * target.window:g} % of the requests by arrival order, at shares of the capacity that the calibrated "
        "fluid model predicts. Below: how much lower it is than under vLLM's own scheduler on the same requests at "
        "equal limits (tokens and requests per batch, KV blocks), paired by replication; policies took turns in "
        "alternating order; points are shifted sideways so that all are seen. Bands and bars: 95 % Student-t "
        f"intervals, from {LEAST} replications on. Mean "
        f"reduction over the rates: {found}.{'' if bundle.about.pace is None else metered}"
    )


def _variants(bundle: Bundle, summary: pl.DataFrame) -> list[str]:
    """Those with runs, in the order of the panels."""
    recorded = set(summary["variant"])
    return [name for name in bundle.target.variants if name in recorded]


def _told(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """The table without intervals of fewer than :data:`LEAST` replications, which say nothing."""
    bounds = pl.col(f"{name}_low", f"{name}_high")
    return table.with_columns(pl.when(pl.col("replications") >= LEAST).then(bounds).otherwise(float("nan")))


def _interval(row: dict, name: str) -> str:
    mean, low, high = (100 * row[column] for column in (name, f"{name}_low", f"{name}_high"))
    return f"{mean:+.1f} %" + (f" [{low:+.1f}, {high:+.1f}]" if row["replications"] >= LEAST else "")


def _nothing(bundle: Bundle, fresh: bool) -> Figure:
    """A recording that was cut short before its first run, in words."""
    with style.journal():
        figure = style.JournalFigure(figsize=(style.ONE_COLUMN, 0.6))
        figure.text(0.02, 0.5, f"no runs recorded yet on {stamp(bundle, fresh)}", va="center")
        return figure


def _latency(axes: Axes, table: pl.DataFrame, chosen: dict) -> None:
    curves = {key: table.filter(pl.col("policy") == key).sort("rate") for key in chosen}
    curves = {key: curve for key, curve in curves.items() if not curve.is_empty()}
    style.plot_curves(axes, curves, chosen, "mean_latency")
    axes.set_ylim(0.0, 1.05 * axes.get_ylim()[1])
    axes.tick_params(axis="x", labelbottom=False)


def _gain(axes: Axes, table: pl.DataFrame, chosen: dict) -> None:
    axes.axhline(0.0, color=style.FAINT, linewidth=0.8, zorder=1)
    keys = table["policy"].unique(maintain_order=True)
    apart = DODGE * (highest(table["rate"]) - lowest(table["rate"]))
    for place, key in enumerate(keys):
        part = table.filter(pl.col("policy") == key).sort("rate")
        rate = part["rate"] + apart * (place - (len(keys) - 1) / 2)
        mean, low, high = (100 * part[c].to_numpy() for c in ("reduction", "reduction_low", "reduction_high"))
        options = chosen[key].options()
        axes.plot(rate, mean, **options, zorder=3, label=key)
        axes.vlines(rate, low, high, color=options["color"], linewidth=1.0, zorder=2)
    style.rate_axis(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
