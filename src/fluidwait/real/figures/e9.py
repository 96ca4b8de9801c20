"""E9: the time model against measured generations, and the simulator against the engine, request by request."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fluidwait.base.tables import highest, load_table, lowest
from fluidwait.drawing import style
from fluidwait.drawing.reading import read_table
from fluidwait.real.bundle import Bundle
from fluidwait.real.figures.words import looks, origin, stamp

INPUTS = ("fit.csv", "generations.csv")
WITH_RUNS = ("pairs.csv", "reality.csv")
"""Tables that only a bundle with runs has."""

HEIGHT, WIDTH, LEFT, BOTTOM = 2.2, 2.75, 0.52, 0.52  # inches
MEASURED = {"color": style.INK, "marker": "o", "markersize": 3.4, "linestyle": "none"}
LINEAR = {"color": "#E69F00", "linestyle": style.DASHED}
PROFILE = {"color": "#0072B2", "linestyle": style.SOLID}
EQUAL = {"color": style.FAINT, "linewidth": 0.8}
MOST = 600
"""Requests of a policy shown; more would hide each other."""


def make(folder: Path, bundle: Bundle, fresh: bool) -> Figure:
    """(a) seconds of a generation against its KV work; (b) simulated against real latency of every request."""
    generations = read_table(
        folder / "generations.csv", ("batch", "measured", "linear", "profile", "kv_work"), ("extrapolated",)
    )
    entries = [
        Line2D([], [], label="measured", **MEASURED),
        Line2D([], [], label="extrapolated", **(MEASURED | {"markerfacecolor": "none"})),
        Line2D([], [], label="linear in KV", **LINEAR),
        Line2D([], [], label="calibrated", **PROFILE),
    ]
    chosen = looks(bundle)
    with style.journal():
        if bundle.has_runs():
            pairs = read_table(folder / "pairs.csv", ("real", "simulated"), ("policy",))
            chosen = {key: look for key, look in chosen.items() if key in set(pairs["policy"])}
            options = {key: look.options() | {"linestyle": "none"} for key, look in chosen.items()}
            entries += [Line2D([], [], label=bundle.target.policies[k].label, **o) for k, o in options.items()]
        figure = style.new_figure(style.TWO_COLUMNS, HEIGHT + BOTTOM + 0.24, entries)
        _generations(style.add_axes(figure, LEFT, BOTTOM, WIDTH, HEIGHT), generations)
        if bundle.has_runs():
            _pairs(style.add_axes(figure, LEFT + WIDTH + 0.72, BOTTOM, WIDTH, HEIGHT), pairs, chosen)
        figure.text(0.995, 0.008, stamp(bundle, fresh), ha="right", va="bottom", fontsize=5.5, color=style.FAINT)
        return figure


def caption(folder: Path, bundle: Bundle, fresh: bool) -> str:
    whole = bundle.target.generation
    scores = {(r["what"], r["model"], r["sample"]): r for r in load_table(folder / "fit.csv").to_dicts()}
    linear, beyond = scores["generation", "linear", "fitted"], scores["generation", "linear", "extrapolated"]
    held = scores["iteration", "profile", "held out"]
    text = (
        f"E9. {origin(bundle, fresh)} (a) Seconds of a whole generation of equal requests (prompt {whole.prompt}, "
        f"output {whole.output} tokens, batch sizes {whole.batch[0]} to {whole.batch[-1]}; open: "
        f"{', '.join(map(str, whole.extrapolated))}, not fitted), medians of {whole.repeats} repeats, against the KV "
        f"tokens held, summed over the iterations. Linear model: mean error {100 * linear['mape']:.3g} %, R² "
        f"{linear['r2']:.4f}, extrapolated {100 * beyond['mape']:.3g} %. Calibrated time model: "
        f"{100 * scores['generation', 'profile', 'fitted']['mape']:.3g} % and "
        f"{100 * scores['generation', 'profile', 'extrapolated']['mape']:.3g} %, though fitted to other iterations; "
        f"{100 * held['mape']:.3g} % on {held['rows']} iterations held out of its fit."
    )
    if bundle.has_runs():
        table, metered = load_table(folder / "reality.csv"), bundle.about.pace is not None
        known = "settings and the calibrated times"
        if metered:
            known = "settings, the calibrated times, and the machine's pace from a meter beside the engine"
        text += (
            " (b) End-to-end latency of every request on the engine and in the simulator, which got the same requests, "
            f"{known}; {table['requests'].sum():,} requests in all. "
            f"Median error by policy and rate: {_spread(table['median_error'])}"
        )
        if metered:
            text += (
                f"; on a machine taken to be as fast as in the calibration, {_spread(table['unpaced_error'])} (it took "
                f"{lowest(table['speed']):.2f} to {highest(table['speed']):.2f} times as long)"
            )
        text += f"; if it is also told how long the run's batches took, {_spread(table['adjusted_error'])}."
    return text


def _spread(errors: pl.Series) -> str:
    median = cast(float, errors.median())
    return f"{100 * lowest(errors):.3g} to {100 * highest(errors):.3g} %, median {100 * median:.3g} %"


def _generations(axes: Axes, table: pl.DataFrame) -> None:
    for beyond in (False, True):
        part = table.filter((pl.col("extrapolated") == "true") == beyond)
        options = MEASURED | ({"markerfacecolor": "none"} if beyond else {})
        axes.plot(
            part["kv_work"], part["measured"], **options, zorder=4, label="extrapolated" if beyond else "measured"
        )
    axes.plot(table["kv_work"], table["linear"], **LINEAR, label="linear", zorder=3)
    axes.plot(table["kv_work"], table["profile"], **PROFILE, label="profile", zorder=3)
    axes.set(xscale="log", yscale="log")
    style.plain_log_axis(axes.yaxis)
    axes.set_xlabel("KV tokens × iterations of a generation")
    axes.set_ylabel("seconds")
    style.panel_title(axes, "a")


def _pairs(axes: Axes, table: pl.DataFrame, chosen: dict) -> None:
    low, high = 1e9, 0.0
    for key, look in chosen.items():
        part = table.filter(pl.col("policy") == key)
        if part.is_empty():
            continue
        shown = part.sample(min(MOST, part.height), seed=0)
        options = look.options() | {"linestyle": "none", "markersize": 2.2, "markeredgewidth": 0.4, "alpha": 0.6}
        axes.plot(shown["real"], shown["simulated"], **options, label=key, zorder=3)
        low = min(low, lowest(part["real"]), lowest(part["simulated"]))
        high = max(high, highest(part["real"]), highest(part["simulated"]))
    ends = np.array([low / 1.15, high * 1.15])
    axes.plot(ends, ends, **EQUAL, zorder=2)
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color="#f0f0f0", linewidth=0, zorder=1)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    style.plain_log_axis(axes.xaxis)
    style.plain_log_axis(axes.yaxis)
    axes.set_xlabel("latency on the engine (s)")
    axes.set_ylabel("latency in the simulator (s)")
    style.panel_title(axes, "b", "grey: within 10 %")
