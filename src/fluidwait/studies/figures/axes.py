"""Axes that the figures of E11 share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogFormatterMathtext, LogLocator, NullFormatter

HORIZON = "horizon ζT (iterations of a full batch)"


def decades(axes: Axes, x: bool = True, y: bool = True) -> None:
    """Logarithmic axes with a label at every power of ten."""
    for wanted, name in ((x, "x"), (y, "y")):
        if wanted:
            getattr(axes, f"set_{name}scale")("log")
            axis = getattr(axes, f"{name}axis")
            axis.set_major_locator(LogLocator(numticks=20))
            axis.set_major_formatter(LogFormatterMathtext())
            axis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=20))
            axis.set_minor_formatter(NullFormatter())


def whole_counts(axes: Axes, values: list[int]) -> None:
    """A logarithmic x axis of small whole numbers, labelled at ``values``."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.set_xticks(values, [str(value) for value in values])
    axes.xaxis.set_minor_locator(FixedLocator([]))
