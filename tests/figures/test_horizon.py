from __future__ import annotations

import polars as pl
import pytest
from figure_reading import bands, change, edges, labels, line
from figure_tables import LABELS

from fluidwait.base.errors import ConfigError
from fluidwait.experiments.figures import horizon

LENGTHS = (1000, 2000, 4000)


@pytest.fixture
def folder(tmp_path):
    """results/quick/e4: latency is (place of the policy + 1) x N / 1000, ten times that at 23 requests/s."""
    path = tmp_path / "quick" / "e4"
    path.mkdir(parents=True)
    rows = []
    for place, key in enumerate(LABELS):
        for rate, factor in ((23.0, 10.0), (22.0, 1.0)):
            for n in reversed(LENGTHS):  # not in the order of drawing
                mean = factor * (place + 1) * n / 1000
                row = {"policy": key, "rate": rate, "requests": n, "replications": 3, "mean_latency": mean}
                rows.append(row | {"mean_latency_low": 0.9 * mean, "mean_latency_high": 1.1 * mean})
    pl.DataFrame(rows).write_csv(path / "summary.csv")
    return path


@pytest.fixture
def about():
    return {"id": "e4", "title": "Long runs", "labels": dict(LABELS)}


def test_a_panel_per_rate_shows_the_table(folder, about):
    low, high = horizon.make(folder, about).axes
    assert ["22" in low.get_title(loc="left"), "23" in high.get_title(loc="left")] == [True, True]
    for axes, factor in ((low, 1.0), (high, 10.0)):
        assert labels(axes) == list(LABELS)
        for place, key in enumerate(LABELS):
            assert line(axes, key) == (list(map(float, LENGTHS)), [factor * (place + 1) * n / 1000 for n in LENGTHS])
        assert len(bands(axes)) == len(LABELS)
        assert edges(bands(axes)[0])[2000.0] == pytest.approx((1.8 * factor, 2.2 * factor))


def test_panels_share_one_logarithmic_axis_that_holds_every_mean(folder, about):
    low, high = horizon.make(folder, about).axes
    assert low.get_yscale() == high.get_yscale() == "log"
    assert low.get_ylim() == high.get_ylim()
    assert low.get_ylim()[0] < 1.0
    assert low.get_ylim()[1] > 120.0


def test_without_intervals_there_are_no_bands(folder, about):
    change(folder / "summary.csv", mean_latency_low=None, mean_latency_high=None)
    with pytest.raises(ConfigError, match="no column 'mean_latency_low'"):
        horizon.make(folder, about)
    table = pl.read_csv(folder / "summary.csv")
    empty = pl.lit(None, dtype=pl.Float64)
    table.with_columns(mean_latency_low=empty, mean_latency_high=empty).write_csv(folder / "summary.csv")
    assert all(not bands(axes) for axes in horizon.make(folder, about).axes)


def test_caption_says_how_long_the_runs_are(folder, about):
    text = horizon.caption(folder, about)
    assert "N = 1,000 to 4,000 requests per run, 3 replication(s)" in text
