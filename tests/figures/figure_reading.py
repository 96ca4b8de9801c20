"""What a figure shows, read back from its artists."""

from __future__ import annotations

import polars as pl
from matplotlib.collections import PolyCollection


def line(axes, label):
    """x and y of the one line with this label."""
    (found,) = [artist for artist in axes.lines if artist.get_label() == label]
    return [float(x) for x in found.get_xdata()], [float(y) for y in found.get_ydata()]


def labels(axes):
    return [artist.get_label() for artist in axes.lines if not artist.get_label().startswith("_")]


def bands(axes):
    """The confidence bands: filled areas, by colour."""
    return [artist for artist in axes.collections if isinstance(artist, PolyCollection)]


def edges(band):
    """Lowest and highest y of a band at each of its x."""
    vertices = band.get_paths()[0].vertices
    return {
        x: (min(y for at, y in vertices if at == x), max(y for at, y in vertices if at == x))
        for x in {float(at) for at, _ in vertices}
    }


def vertical_lines(axes):
    return [float(a.get_xdata()[0]) for a in axes.lines if len(set(a.get_xdata())) == 1 and len(a.get_xdata()) == 2]


def change(path, **columns):
    """Set columns of a CSV file, each to one value or a list; None drops the column."""
    table = pl.read_csv(path)
    for name, value in columns.items():
        if value is None:
            table = table.drop(name)
        else:
            values = value if isinstance(value, list) else [value] * table.height
            table = table.with_columns(pl.Series(name, values, strict=False))
    table.write_csv(path)
