"""One journal style for every figure: sizes, font, palette, and which policy looks like what.

Colours are the Okabe-Ito palette, which colour-blind readers tell apart. In grey, policies stay apart by marker, by
filled or open marker, and by line style. A policy's look depends on its key only, up to its place among its siblings:
``wait*`` is blue with circles and crosses, ``sarathi*`` vermilion with squares, ``vllm_v0*`` green with triangles up,
``vllm_v1*`` purple with triangles down, ``orca*`` orange with crosses, ``fluid*`` black with pentagons,
``sglang*`` orange with hexagons, ``trtllm*`` green with octagons, anything else black or grey with stars and such.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import polars as pl
from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fluidwait.base.errors import ConfigError

ONE_COLUMN, MIDDLE, TWO_COLUMNS = 3.5, 5.2, 7.1
"""Widths of figures, inches."""

INK, FAINT = "#222222", "#8a8a8a"
"""Colours of text and of what belongs to no policy."""

LINEAR_PERCENT = 10.0
"""Axes of relative differences are linear up to this many percent and logarithmic beyond."""

RC = {
    "font.family": "DejaVu Sans",  # ships with Matplotlib, so every machine draws the same glyphs
    "mathtext.fontset": "dejavusans",
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.4,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.35,
    "axes.unicode_minus": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "fluidwait",
    "pdf.fonttype": 42,
}
"""Matplotlib settings, on top of Matplotlib's own defaults (never of the user's)."""


@contextmanager
def journal() -> Iterator[None]:
    """Draw in the journal style, whatever the user's Matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


class JournalFigure(Figure):
    """A figure on an Agg canvas that is also saved in the journal style: Matplotlib makes ticks only when it draws."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        FigureCanvasAgg(self)

    def savefig(self, fname: Any, **options: Any) -> None:
        with journal():
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=150)
        return picture.getvalue()


# --- policies ------------------------------------------------------------------------------------------------------


Line = str | tuple[int, tuple[float, ...]]


class Style(NamedTuple):
    """How one policy looks."""

    color: str
    marker: str
    filled: bool
    line: Line

    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        return {
            "color": self.color,
            "linestyle": self.line,
            "marker": self.marker,
            "markerfacecolor": self.color if self.filled else "none",
            "markeredgecolor": self.color,
            "markeredgewidth": 0.8,
            "markersize": 3.4 if self.filled else 5.0,  # open markers ring a filled one at the same point
        }


SOLID, DASHED, DOTTED, DASH_DOT = "-", (0, (4.0, 1.6)), (0, (1.2, 1.2)), (0, (5.0, 1.4, 1.2, 1.4))

FAMILIES: dict[str, tuple[Style, ...]] = {
    "wait": (
        Style("#0072B2", "o", True, SOLID),
        Style("#56B4E9", "o", False, DASHED),
        Style("#00466E", "+", False, DASH_DOT),
        Style("#3A93C9", "x", False, DOTTED),
    ),
    "sarathi": (
        Style("#D55E00", "s", True, SOLID),
        Style("#D55E00", "s", False, DASHED),
        Style("#7F3800", "D", False, DASH_DOT),
        Style("#F09A56", "D", True, DOTTED),
    ),
    "vllm_v0": (Style("#009E73", "^", True, DASH_DOT), Style("#009E73", "^", False, DOTTED)),
    "vllm_v1": (Style("#B5549B", "v", True, DASHED), Style("#B5549B", "v", False, DOTTED)),
    "orca": (Style("#E69F00", "X", True, DOTTED), Style("#E69F00", "X", False, DASHED)),
    "fluid": (Style("#000000", "p", True, SOLID), Style("#6B6B6B", "p", False, DASHED)),
    "sglang": (Style("#E69F00", "h", True, DASH_DOT), Style("#E69F00", "h", False, DOTTED)),
    "trtllm": (Style("#009E73", "8", True, DASHED), Style("#009E73", "8", False, DOTTED)),
    "other": (
        Style("#000000", "*", True, SOLID),
        Style("#6B6B6B", "P", True, DASHED),
        Style("#000000", "<", False, DASH_DOT),
        Style("#6B6B6B", ">", True, DOTTED),
        Style("#000000", "d", False, DASHED),
        Style("#6B6B6B", "*", False, SOLID),
    ),
}


def family(key: str) -> str:
    """The family of a policy's key: ``wait_fluid`` and ``nested_wait`` are ``wait``, unknown ones ``other``."""
    if "wait" in key.split("_"):
        return "wait"
    return next((name for name in FAMILIES if key.startswith(name)), "other")


MARKERS = ("o", "s", "D", "^", "v", "<", ">", "p", "h", "X", "P", "*", "d", "8")
LINES: tuple[Line, ...] = (SOLID, DASHED, DOTTED, DASH_DOT)


def styles(keys: Iterable[str]) -> dict[str, Style]:
    """A distinct style for each policy key; siblings of one family take its styles in the order given.

    Beyond a family's own styles come others of its colours, so that a hundred siblings still look different.
    """
    of_family = {name: itertools.cycle(tuple(_styles_of(name))) for name in FAMILIES}
    return {key: next(of_family[family(key)]) for key in keys}


def _styles_of(name: str) -> Iterator[Style]:
    """The styles of a family, its own first, and then every other look of its first colours."""
    own = FAMILIES[name]
    yield from own
    colors = tuple(dict.fromkeys(style.color for style in own))
    every = itertools.product((True, False), LINES, MARKERS, colors)
    yield from (look for fill, line, mark, color in every if (look := Style(color, mark, fill, line)) not in own)


def plot_curves(
    axes: Axes, curves: Mapping[str, pl.DataFrame], looks: Mapping[str, Style], metric: str, x: str = "rate"
) -> None:
    """Each policy's line of ``metric`` with its confidence band (``_low``, ``_high``) where there is one.

    The line is labelled with the policy's key. Later policies lie on top.
    """
    for place, (key, curve) in enumerate(curves.items()):
        at, mean, low, high = (curve[name].to_numpy() for name in (x, metric, f"{metric}_low", f"{metric}_high"))
        axes.plot(at, mean, **looks[key].options(), label=key, zorder=3 + 0.01 * place)
        known = np.isfinite(low) & np.isfinite(high)
        if known.any():
            axes.fill_between(at, low, high, where=known, color=looks[key].color, alpha=0.14, linewidth=0, zorder=2)


# --- layout --------------------------------------------------------------------------------------------------------


def handles(labels: Mapping[str, str], looks: Mapping[str, Style]) -> list[Line2D]:
    """Legend entries of policies, in the order of ``labels`` (key to label)."""
    return [Line2D([], [], label=label, **looks[key].options()) for key, label in labels.items()]


def new_figure(width: float, height: float, entries: Sequence[Line2D]) -> JournalFigure:
    """A figure of ``width`` by ``height`` inches plus the legend of ``entries``, if any, in as few rows as fit."""
    figure = JournalFigure(figsize=(width, height))
    if entries:
        legend = _fitting_legend(figure, entries)
        figure.set_size_inches(width, height + _size(figure, legend)[1])
    return figure


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Axes at a place given in inches from the lower left corner of the figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), **options)


def _fitting_legend(figure: Figure, entries: Sequence[Line2D]) -> Legend:
    for rows in range(1, len(entries) + 1):
        columns = math.ceil(len(entries) / rows)
        legend = figure.legend(
            handles=list(entries), loc="upper center", ncols=columns, bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2
        )
        if columns == 1 or _size(figure, legend)[0] <= figure.get_figwidth():
            break
        legend.remove()
    return legend


def _size(figure: Figure, legend: Legend) -> tuple[float, float]:
    box = legend.get_window_extent()
    return box.width / figure.dpi, box.height / figure.dpi


def linear_log_axis(axes: Axes, low: float, turn: float, high: float, share: float = 0.56) -> None:
    """A y axis from ``low`` to ``high``: linear in its lower ``share``, up to ``turn``, logarithmic above.

    A line marks the turn, and words beside the axes say which part is which. Plain linear when ``high`` <= ``turn``.
    """
    if high <= turn:
        axes.set_ylim(low, high)
        return
    decades = np.log10(high / turn)

    def forward(y: np.ndarray) -> np.ndarray:
        y = np.asarray(y, dtype=float)
        logs = share + (1 - share) * np.log10(np.maximum(y, turn) / turn) / decades
        return np.where(y > turn, logs, share * (y - low) / (turn - low))

    def inverse(z: np.ndarray) -> np.ndarray:
        z = np.asarray(z, dtype=float)
        logs = turn * 10 ** (decades * np.maximum(z - share, 0.0) / (1 - share))
        return np.where(z > share, logs, low + z * (turn - low) / share)

    axes.set_yscale("function", functions=(forward, inverse))
    axes.set_ylim(low, high)
    below = [y for y in MaxNLocator(6, steps=(1, 2, 5, 10)).tick_values(low, turn) if low <= y < 0.96 * turn]
    above = [y for y in LogLocator(subs=(1.0, 2.0, 5.0)).tick_values(turn, high) if 1.04 * turn < y <= high]
    minor = [y for y in LogLocator(subs=np.arange(1.0, 10.0)).tick_values(turn, high) if turn < y <= high]
    axes.set_yticks([*below, turn, *above], [f"{y:.4g}" for y in (*below, turn, *above)])
    axes.set_yticks(sorted(set(minor) - set(above)), minor=True)
    axes.axhline(turn, color=FAINT, linewidth=0.6, zorder=1)
    for middle, word in ((share / 2, "linear scale"), ((1 + share) / 2, "log scale")):
        axes.annotate(
            word, (1.0, middle), (3, 0), xycoords="axes fraction", textcoords="offset points", rotation=90,
            va="center", ha="left", fontsize=6.0, style="italic", color=FAINT,
        )  # fmt: skip


def percent_axis(axes: Axes, values: np.ndarray) -> None:
    """A y axis for relative differences: linear within ±10 % (shaded), logarithmic beyond, with signs.

    ``values``, in percent, decide the range; NaN does not count.
    """
    low, high = min(np.nanmin(values), 0.0), max(np.nanmax(values), 0.0)
    axes.set_yscale("symlog", linthresh=LINEAR_PERCENT)
    axes.set_ylim(low * 1.3 - 1.0, high * 1.3 + 1.0)
    axes.axhspan(-LINEAR_PERCENT, LINEAR_PERCENT, color="#f4f4f4", zorder=0)
    steps = [2.0, 5.0, 10.0, 20.0, 50.0]
    beyond = [digit * 10.0**power for power in range(2, 9) for digit in (1, 2, 5)]
    bottom, top = axes.get_ylim()
    ticks = (*(-step for step in steps), 0.0, *steps, *beyond)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if bottom <= tick <= top]))
    axes.yaxis.set_major_formatter(FuncFormatter(_signed))
    axes.yaxis.set_minor_locator(FixedLocator([]))


def _signed(percent: float, _: int) -> str:
    return "0" if percent == 0 else f"{percent:+g}".replace("-", "\N{MINUS SIGN}")


def check_words(words: Iterable[str], where: str) -> None:
    """Refuse what a figure cannot print: between two dollar signs it expects a formula.

    Args:
        where: start of the message.

    Raises:
        ConfigError: a formula is wrong.
    """
    parser = MathTextParser("path")
    for text in words:
        try:
            if cbook.is_math_text(text):
                parser.parse(text)
        except ValueError:
            told = "between dollar signs is no formula that a figure can print; write \\$ for the sign"
            raise ConfigError(f"{where}: '{text}': what stands {told}") from None


def panel_title(axes: Axes, letter: str, text: str = "") -> None:
    """``(a) text`` above the upper left corner."""
    axes.set_title(f"({letter}) {text}".strip())


def plain_log_axis(axis: Any) -> None:
    """Ticks 1, 2, 5 of every decade as plain numbers, and a minor tick without a label at every other digit."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=(3.0, 4.0, 6.0, 7.0, 8.0, 9.0), numticks=20))
    axis.set_minor_formatter(NullFormatter())


BOUNDARY = {"color": INK, "linestyle": (0, (1.0, 1.5)), "linewidth": 1.1}
"""The line at the boundary of the calibrated fluid model."""


def rate_axis(axes: Axes) -> None:
    """Label the x axis as the arrival rate, with a few ticks at round numbers."""
    axes.set_xlabel("arrival rate λ (requests/s)")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
