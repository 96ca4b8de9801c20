"""Figures of E9 and E10 from made-up tables: what they draw, and what they say of where it comes from."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from fluidwait.real.bundle import Bundle, Description
from fluidwait.real.figures import e9, e10
from fluidwait.real.figures.words import origin, stamp
from fluidwait.real.target import load_target


def bundle(tmp_path, runs=True, **change) -> Bundle:
    target = load_target("cpu")
    about = {
        "machine": "some-cpu",
        "device": {"name": "Some CPU, 2 cores", "cores": 2},
        "engine": {"name": "vllm", "version": "0.32.0"},
        "target": target,
        "pace": 2e-3,
        "config_hash": "0" * 64,
        "data": {},
        "code": {},
        "recorded": "2026-01-02 03:04",
        "load": [1.0, 2.0, 2.5],
        "seconds": 300.0,
        "points": 51,
        "planned": 51,
        "files": {"requests.parquet": "0" * 64} if runs else {},
    }
    return Bundle(tmp_path, Description(**(about | change)))


@pytest.fixture
def tables(tmp_path):
    """The tables of both figures; the simulator is 5 % slow, WAIT 20 % faster than vLLM."""
    generations = {"batch": [1, 2, 4], "extrapolated": [False, False, True], "measured": [1.0, 2.0, 4.0]}
    generations |= {"linear": [1.1, 2.0, 4.1], "profile": [1.0, 2.1, 4.0], "kv_work": [100.0, 200.0, 400.0]}
    pl.DataFrame(generations).write_csv(tmp_path / "generations.csv")
    fit = [
        ("iteration", "profile", "held out"),
        ("generation", "linear", "fitted"),
        ("generation", "linear", "extrapolated"),
    ]
    fit += [("generation", "profile", "fitted"), ("generation", "profile", "extrapolated")]
    rows = [dict(zip(("what", "model", "sample"), f, strict=True)) | {"rows": 3, "mape": 0.02, "r2": 0.99} for f in fit]
    pl.DataFrame(rows).write_csv(tmp_path / "fit.csv")
    pairs = [{"policy": p, "real": x, "simulated": 1.05 * x} for p in ("stock", "wait") for x in (0.1, 0.5, 2.0)]
    pl.DataFrame(pairs).write_csv(tmp_path / "pairs.csv")
    reality = {
        "requests": [6],
        "median_error": [0.05],
        "unpaced_error": [0.08],
        "adjusted_error": [0.03],
        "speed": [1.1],
    }
    pl.DataFrame(reality).write_csv(tmp_path / "reality.csv")
    summary, gain = [], []
    for variant, policies in (("single", ("stock", "wait")), ("lmsys", ("stock", "nested_wait"))):
        for rate in (5.0, 10.0):
            for policy in policies:
                latency = rate / 10 * (1.0 if policy == "stock" else 0.8)
                bounds = {"mean_latency_low": 0.9 * latency, "mean_latency_high": 1.1 * latency}
                own = {"variant": variant, "policy": policy, "rate": rate, "replications": 4}
                summary.append(own | {"mean_latency": latency} | bounds)
        for share, rate in ((0.5, 5.0), (1.0, 10.0), (None, None)):
            own = {"variant": variant, "policy": policies[1], "label": policies[1], "share": share, "rate": rate}
            own["replications"] = 4
            gain.append(
                own
                | {"reduction": 0.2, "reduction_low": 0.1, "reduction_high": 0.3}
                | {"paced_reduction": 0.15, "paced_reduction_low": 0.125, "paced_reduction_high": 0.175}
            )
    pl.DataFrame(summary).write_csv(tmp_path / "summary.csv")
    pl.DataFrame(gain).write_csv(tmp_path / "gain.csv")
    return tmp_path


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_e9_shows_every_generation_and_every_request(tables):
    first, second = e9.make(tables, bundle(tables), fresh=True).axes
    drawn = lines(first)
    assert drawn["measured"].tolist() == [[100, 1], [200, 2]] and drawn["extrapolated"].tolist() == [[400, 4]]
    assert drawn["linear"][:, 1].tolist() == [1.1, 2.0, 4.1]
    for key in ("stock", "wait"):
        points = lines(second)[key]
        assert sorted(points[:, 0]) == [0.1, 0.5, 2.0] and points[:, 1] == pytest.approx(1.05 * points[:, 0])


def test_e9_without_runs_has_one_panel(tables):
    short = bundle(tables, runs=False, points=3)
    assert len(e9.make(tables, short, fresh=True).axes) == 1
    caption = e9.caption(tables, short, fresh=True)
    assert "cut short: 3 of 51 points" in caption and "(b)" not in caption


def test_e10_has_a_column_per_variant_that_was_run(tables):
    figure = e10.make(tables, bundle(tables), fresh=False)
    upper, lower, *_ = figure.axes
    assert len(figure.axes) == 4
    assert lines(upper)["wait"][:, 1] == pytest.approx([0.4, 0.8])
    assert lines(lower)["wait"][:, 1] == pytest.approx([20, 20])
    caption = e10.caption(tables, bundle(tables), fresh=False)
    assert "WAIT" not in caption.split("Mean reduction")[1].split(":")[0]
    assert "wait, single type: +20.0 % [+10.0, +30.0]" in caption
    assert "in this order: +15.0 % [+12.5, +17.5]" in caption


def test_two_replications_have_no_interval(tables):
    for name in ("summary.csv", "gain.csv"):
        table = pl.read_csv(tables / name)
        table.with_columns(replications=pl.lit(2)).write_csv(tables / name)
    upper, lower, *_ = e10.make(tables, bundle(tables), fresh=False).axes
    assert not upper.collections and lines(upper)["wait"][:, 1] == pytest.approx([0.4, 0.8])
    assert not any(
        np.isfinite(part.get_segments()).any() for part in lower.collections if hasattr(part, "get_segments")
    )
    caption = e10.caption(tables, bundle(tables), fresh=False)
    assert "wait, single type: +20.0 %;" in caption


def test_captions_speak_of_the_meter_only_where_there_was_one(tables):
    with_meter, without = bundle(tables), bundle(tables, pace=None)
    caption = e9.caption(tables, with_meter, fresh=False)
    assert "pace from a meter" in caption and "median 5 %; on a machine taken to be as fast" in caption
    caption = e9.caption(tables, without, fresh=False)
    assert "meter" not in caption and "as fast as" not in caption and "median 5 %; if it is also told" in caption
    assert "pace" not in e10.caption(tables, without, fresh=False)


def test_e10_of_a_bundle_without_runs_says_so(tables):
    short = bundle(tables, runs=False)
    (text,) = e10.make(tables, short, fresh=True).texts
    assert "no runs recorded yet" in text.get_text()
    assert "cut short before its first run" in e10.caption(tables, short, fresh=True)


def test_figure_and_caption_say_whether_this_run_measured(tmp_path):
    assert origin(bundle(tmp_path), fresh=True).startswith("Measured by this run: vLLM 0.32.0 on Some CPU")
    assert "not measured by this run" in origin(bundle(tmp_path), fresh=False)
    assert stamp(bundle(tmp_path), fresh=False) == "Some CPU, 2 cores, vLLM 0.32.0, recorded 2026-01-02"
    assert "recorded" not in stamp(bundle(tmp_path), fresh=True)


def test_a_busy_machine_is_told(tmp_path):
    assert "busy" not in origin(bundle(tmp_path), fresh=True)
    assert "busy with other work" in origin(bundle(tmp_path, load=[1.0, 9.0, 12.0]), fresh=True)
