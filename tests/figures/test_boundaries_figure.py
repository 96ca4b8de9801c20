"""The figure of the stability boundaries of all experiments."""

from __future__ import annotations

import polars as pl
import pytest
from figure_reading import change, line, vertical_lines

from fluidwait.base.errors import ConfigError
from fluidwait.drawing.products import SUFFIXES, figure_products
from fluidwait.experiments import boundaries_figure as boundaries

SIZES = {"e1": {"requests": 20_000, "replications": 10}, "e5": {"requests": 8000, "replications": 3}}
ROWS = [
    ("p512d20", "e1", "sarathi", "Sarathi", 24.0, 23.9, 24.1, 25.0),
    ("p512d20", "e1", "wait", "WAIT", 26.0, 25.5, 26.5, 25.0),
    ("lmsys-chat-1m", "e5", "sarathi", "Sarathi", 30.0, None, None, 40.0),
    ("lmsys-chat-1m", "e5", "wait", "Nested WAIT", None, None, None, 40.0),
]
COLUMNS = ("workload", "experiment", "policy", "label", "lambda_star", "low", "high", "fluid_bound")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "boundaries.csv"
    rows = pl.DataFrame(ROWS, schema=COLUMNS, orient="row")
    rows.with_columns(share=pl.col("lambda_star") / pl.col("fluid_bound")).write_csv(path)
    return path


def test_markers_are_shares_of_the_bound_and_texts_the_rates(table):
    (axes,) = boundaries.make(table).axes
    assert line(axes, "e1 sarathi")[0] == [96.0]
    assert line(axes, "e1 wait")[0] == [104.0]
    assert line(axes, "e5 sarathi")[0] == [75.0]
    assert 100.0 in vertical_lines(axes)
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        "e1, p512d20: fluid bound 25/s", "Sarathi", "24.0 ± 0.1/s", "WAIT", "26.0 ± 0.5/s",
        "e5, lmsys-chat-1m: fluid bound 40/s", "Sarathi", "30/s", "Nested WAIT", "not found",
    ]  # fmt: skip


def test_intervals_are_drawn(table):
    (axes,) = boundaries.make(table).axes
    spans = [[round(x, 9) for x in a.get_xdata()] for a in axes.lines if len(set(a.get_xdata())) == 2]
    assert spans == [[95.6, 96.4], [102.0, 106.0]]


def test_nothing_leaves_the_page_or_meets_another_text(table):
    figure = boundaries.make(table)
    figure.draw_without_rendering()
    page, renderer = figure.bbox, figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    for place, box in enumerate(boxes):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_caption_says_how_much_was_run(table):
    text = boundaries.caption(table, "paper", SIZES)
    assert "e1: N = 20,000, 10 replication(s)" in text
    assert "e5: N = 8,000, 3 replication(s)" in text
    assert "scale 'paper'" in text


def test_every_format_and_the_same_bytes_twice(table, tmp_path):
    outs = [tmp_path / f"one.{suffix}" for suffix in SUFFIXES]

    def drawn() -> list[bytes]:
        products = figure_products(
            lambda: boundaries.make(table),
            lambda: boundaries.caption(table, "quick", SIZES),
            identity={"sizes": SIZES},
            inputs=(str(table),),
            code=boundaries.__name__,
            rule="boundaries_figure",
        )
        for product, out in zip(products, outs, strict=True):
            product.make(out)
        return [out.read_bytes() for out in outs]

    assert drawn() == drawn()


@pytest.mark.parametrize("column", ["fluid_bound", "lambda_star", "label"])
def test_a_missing_column_is_one_line(column, table):
    change(table, **{column: None})
    with pytest.raises(ConfigError, match=rf"boundaries.csv: no column '{column}'"):
        boundaries.make(table)
