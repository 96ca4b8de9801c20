"""Metrics against hand-worked runs, queueing theory, and runs that break a law."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fluidwait.artifacts.records import REQUESTS, RecordWriter
from fluidwait.base.errors import ConfigError
from fluidwait.stats.metrics import (
    Metrics,
    RunError,
    check_littles_law,
    check_run,
    mean_interval,
    metrics_table,
    run_metrics,
    summarise,
    window_slice,
)


def run(arrival, first, completion, output=None, evictions=None):
    n = len(arrival)
    return {
        "request_id": np.arange(100, 100 + n),
        "kind": np.zeros(n, np.int64),
        "arrival": np.asarray(arrival, float),
        "first_token": np.asarray(first, float),
        "completion": np.asarray(completion, float),
        "prompt_tokens": np.full(n, 512),
        "output_tokens": np.full(n, 20) if output is None else np.asarray(output),
        "evictions": np.zeros(n, np.int64) if evictions is None else np.asarray(evictions),
    }


def md1(load, seed, n=5000):
    arrival = np.cumsum(np.random.default_rng(seed).exponential(1 / load, n))
    start = np.empty(n)
    free = 0.0
    for i, t in enumerate(arrival):
        start[i] = max(free, t)
        free = start[i] + 1.0
    return run(arrival, start + 0.25, start + 1.0)


EIGHT = run(
    arrival=[0, 1, 2, 3, 4, 5, 6, 7],
    first=[1, 2, 2.5, 4, 5, 6, 7, 8],
    completion=[2, 3, 4, 6, 7, 9, 20, 30],
    output=[5, 5, 4, 1, 3, 4, 5, 5],
    evictions=[0, 2, 0, 0, 1, 0, 0, 0],
)


def test_hand_worked_run():
    metrics = run_metrics(EIGHT)  # the window is requests 2..5, arriving at 2, 3, 4, 5
    assert metrics.requests == 8
    assert metrics.mean_latency == (2 + 3 + 3 + 4) / 4
    assert metrics.median_latency == 3
    assert metrics.p95_latency == pytest.approx(3.85)
    assert metrics.p99_latency == pytest.approx(3.97)
    assert metrics.mean_ttft == (0.5 + 1 + 1 + 1) / 4
    assert metrics.mean_tpot == pytest.approx((1.5 / 3 + 2 / 2 + 3 / 3) / 3)  # request 3 has one token: no gap
    assert metrics.completion_rate == pytest.approx(2 / 3)  # at 3 and 4; the one at 2 = t_a is outside
    assert metrics.token_throughput == pytest.approx((5 + 4) / 3)
    assert metrics.evictions == 3
    assert metrics.makespan == 30
    assert metrics.mean_in_system == pytest.approx((2 + 2 + 2 + 3 + 3 + 4 + 14 + 23) / 30)


def test_window_is_the_middle_half_by_arrival_order():
    assert window_slice(5000) == slice(1250, 3750)
    assert window_slice(8) == slice(2, 6)
    assert window_slice(10, 1.0) == slice(0, 10)


@given(st.integers(1, 10_000), st.floats(1e-6, 1))
def test_window_is_symmetric_and_never_empty(requests, share):
    part = window_slice(requests, share)
    assert 0 <= part.start < part.stop <= requests
    assert part.start == requests - part.stop


@pytest.mark.parametrize(("requests", "share"), [(10, 0.0), (10, 1.5), (0, 0.5)])
def test_window_that_makes_no_sense(requests, share):
    with pytest.raises(ValueError, match="no window"):
        window_slice(requests, share)


def test_metrics_do_not_depend_on_row_order():
    columns = md1(0.8, 1)
    shuffled = np.random.default_rng(0).permutation(5000)
    again = run_metrics({name: values[shuffled] for name, values in columns.items()})
    assert again == pytest.approx(run_metrics(columns), rel=1e-12)


def test_md1_waiting_time_and_rates():
    """M/D/1 at load ρ: mean wait ρ / (2(1 - ρ)) service times (Pollaczek-Khinchine); as many leave as arrive."""
    load = 0.8
    runs = [run_metrics(md1(load, seed)) for seed in range(20)]
    latency = mean_interval(m.mean_latency for m in runs)
    expected = 1 + load / (2 * (1 - load))
    assert latency.mean == pytest.approx(expected, abs=4 * latency.deviation / 20**0.5)
    completions = mean_interval(m.completion_rate for m in runs)
    assert completions.mean == pytest.approx(load, abs=4 * completions.deviation / 20**0.5)
    assert runs[0].token_throughput == pytest.approx(20 * runs[0].completion_rate)
    assert runs[0].mean_tpot == pytest.approx(0.75 / 19)


def test_overloaded_server_completes_at_its_capacity():
    assert run_metrics(md1(1.5, 0)).completion_rate == pytest.approx(1.0, rel=1e-3)


def test_single_request():
    metrics = run_metrics(run([1.0], [2.0], [4.0], output=[1]))
    assert (metrics.mean_latency, metrics.mean_ttft, metrics.makespan) == (3.0, 1.0, 3.0)
    assert np.isnan([metrics.completion_rate, metrics.token_throughput, metrics.mean_tpot]).all()


@pytest.mark.parametrize("column", ["completion", "first_token"])
def test_lost_request_is_an_error(column):
    columns = md1(0.5, 0, n=50)
    columns[column][7] = np.nan
    with pytest.raises(RunError, match="1 of 50 requests never completed, the first is 107"):
        run_metrics(columns)


def test_run_without_requests_is_an_error():
    with pytest.raises(RunError, match="without requests"):
        run_metrics(run([], [], []))


def test_effects_before_causes_are_errors():
    columns = md1(0.5, 0, n=50)
    columns["first_token"][3] = columns["arrival"][3]
    with pytest.raises(RunError, match="request 103: its first token is not after its arrival"):
        check_run(columns)
    columns = md1(0.5, 0, n=50)
    columns["completion"][4] = columns["first_token"][4] - 1e-9
    with pytest.raises(RunError, match="request 104: it completes before its first token"):
        check_run(columns)


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(1e-3, 1e4)), min_size=1, max_size=200),
)
def test_littles_law_holds_for_any_drained_run(requests):
    arrival = np.array([a for a, _ in requests])
    sojourn = np.array([s for _, s in requests])
    number = check_littles_law(arrival, arrival + sojourn)
    assert number == pytest.approx(sojourn.sum() / ((arrival + sojourn).max() - arrival.min()), rel=1e-6)


def test_littles_law_catches_a_completion_without_arrival():
    with pytest.raises(RunError, match="more completions than arrivals"):
        check_littles_law(np.array([1.0, 5.0]), np.array([2.0, 3.0]))


def test_littles_law_catches_a_request_that_never_left():
    with pytest.raises(RunError, match="Little's law"):
        check_littles_law(np.array([0.0, 1.0]), np.array([2.0]))


def test_interval_against_scipy():
    values = np.random.default_rng(5).normal(3, 2, 10)
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=stats.sem(values))
    interval = mean_interval(values)
    assert interval == pytest.approx((values.mean(), low, high, values.std(ddof=1), 10), rel=1e-12)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(6)
    intervals = [mean_interval(rng.normal(1, 1, 10)) for _ in range(1000)]
    covered = np.mean([i.low <= 1 <= i.high for i in intervals])
    assert covered == pytest.approx(0.95, abs=0.03)


def test_interval_of_one_none_and_nan():
    one = mean_interval([2.5])
    assert (one.mean, one.count) == (2.5, 1)
    assert np.isnan([one.low, one.high, one.deviation]).all()
    assert np.isnan(mean_interval([1.0, np.nan]).mean)
    with pytest.raises(ValueError, match="no replications"):
        mean_interval([])


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "wait.parquet"
    with RecordWriter(path, REQUESTS, engine="simulator", policy="wait", config_hash="a" * 64) as writer:
        for rate in (0.7, 0.5):
            for replication in range(3):
                columns = md1(rate, [int(rate * 10), replication], n=400)
                parameters = {"rate": rate, "replication": replication}
                writer.append(f"{rate}/{replication}", columns, config_hash="b" * 64, parameters=parameters)
    return path


def test_table_has_a_row_per_run(record):
    table = metrics_table(record)
    assert table.columns == ["run_id", "config_hash", "rate", "replication", *Metrics._fields]
    assert table["rate"].to_list() == [0.7] * 3 + [0.5] * 3
    expected = run_metrics(md1(0.5, [5, 1], n=400))
    assert table.row(4, named=True)["mean_latency"] == expected.mean_latency


def test_summary_has_a_row_per_point(record):
    table = metrics_table(record)
    summary = summarise(table, ["rate"])
    assert summary["rate"].to_list() == [0.5, 0.7]
    assert summary["replications"].to_list() == [3, 3]
    values = table.filter(pl.col("rate") == 0.7)["p99_latency"].to_list()
    row = summary.row(1, named=True)
    interval = mean_interval(values)
    assert (row["p99_latency"], row["p99_latency_low"], row["p99_latency_high"]) == interval[:3]
    assert row["p99_latency_sd"] == interval.deviation


def test_table_names_file_and_run_at_fault(tmp_path):
    path = tmp_path / "bad.parquet"
    columns = md1(0.5, 0, n=20)
    columns["completion"][0] = np.nan
    with RecordWriter(path, REQUESTS, engine="vllm", policy="wait", config_hash="a" * 64) as writer:
        writer.append("rate=4", columns, config_hash="b" * 64)
    with pytest.raises(RunError, match=r"bad\.parquet: run rate=4: run not drained: 1 of 20"):
        metrics_table(path)


def test_table_of_a_missing_file(tmp_path, record):
    with pytest.raises(ConfigError, match=r"wiat\.parquet: no such file \(did you mean 'wait\.parquet'\?\)"):
        metrics_table(tmp_path / "wiat.parquet")
