"""E11 obeys the laws of the paper's model, and says what is wrong with a configuration."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from small_studies import NESTED, SINGLE, e11, e11_data

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.fluid.equilibrium import equilibrium
from fluidwait.studies import gaps, overflow, scaling, toy
from fluidwait.studies.cases import prepared, run_cases
from fluidwait.studies.e11 import E11
from fluidwait.studies.instance import Instance, offer
from fluidwait.studies.measure import at_horizons


@pytest.mark.parametrize("slack", [0.0, 0.25])
def test_rates_follow_from_the_thresholds(slack):
    instance = parse(Instance, e11_data()["instances"]["two"], "t")
    offered = offer(instance, slack)
    state = equilibrium(offered.law, offered.rate * (1 + slack), instance.d0, instance.d1)
    assert state.iteration_time == pytest.approx(offered.iteration_time)  # at equality the full batch is the fluid's
    assert state.memory == pytest.approx(offered.memory)
    assert state.per_stage == pytest.approx(instance.thresholds)
    assert offered.throughput == pytest.approx(state.throughput / (1 + slack))


def run_of(study, key: str, iterations: float = 200.0, replication: int = 0):
    case = study.cases[key]
    offered = study.offered(case)
    requests = offered.requests_until(iterations * offered.iteration_time, 1, replication)
    simulate = prepared(study, case, case.thresholds[0] if case.thresholds else None)
    return offered, requests, simulate(requests)


def test_the_beginning_of_a_run_is_the_shorter_run():
    """One run gives every shorter horizon: what arrives later changes nothing before."""
    study = e11()
    offered, long, run = run_of(study, "wait_two", 2000.0)
    _, short, beginning = run_of(study, "wait_two", 200.0)
    until = np.array([100.0, 200.0]) * offered.iteration_time
    assert np.array_equal(long.arrival[: len(short.arrival)], short.arrival)
    ours, theirs = at_horizons(long, run, offered, until), at_horizons(short, beginning, offered, until)
    for quantity in ours:
        assert ours[quantity].tolist() == theirs[quantity].tolist()


def test_latency_at_a_horizon_is_the_time_average_of_the_number_in_the_system():
    """Little's law: with one type, latency x arrivals = integral of the number in the system."""
    offered, requests, run = run_of(e11(), "wait_equality")
    horizon = 150 * offered.iteration_time
    n = int((requests.arrival <= horizon).sum())
    events = np.concatenate([requests.arrival, run.completion])
    change = np.concatenate([np.ones(len(requests.arrival)), -np.ones(len(requests.arrival))])
    order = np.argsort(events, kind="stable")
    times = np.concatenate([[0.0], np.minimum(events[order], horizon), [horizon]])
    number = np.concatenate([[0], np.cumsum(change[order])])
    latency = at_horizons(requests, run, offered, np.array([horizon]))["latency"][0]
    service = 3 * offered.iteration_time
    assert latency * service * n == pytest.approx(np.sum(np.diff(times) * number))


def test_the_gap_is_never_negative_and_has_the_mean_of_the_plain_one():
    study = e11(scales={"tiny": e11_data()["scales"]["tiny"] | {"replications": 200}})
    runs = run_cases(study, ["wait_slack"], "tiny").filter(pl.col("iterations") == 300)
    assert runs["gap"].min() >= 0
    difference = (runs["gap"] - runs["gap_plain"]).to_numpy()  # noise of the arrivals: mean 0
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert runs["gap_plain"].std() > 5 * runs["gap"].std()


def test_wait_at_equality_is_a_reflected_random_walk():
    """One type: a full batch takes n requests while Poisson(n) arrive, so E gap is about l' sqrt(2 rate / (pi H))."""
    study = e11(scales={"tiny": e11_data()["scales"]["tiny"] | {"horizon": 30_000, "replications": 150}})
    runs = run_cases(study, ["wait_equality"], "tiny").filter(pl.col("iterations") == 30_000)
    rate = study.offered(study.cases["wait_equality"]).rate
    predicted = 2 * np.sqrt(2 * rate / (np.pi * runs["zeta_t"][0]))
    error = runs["gap"].std() / np.sqrt(len(runs))
    assert abs(runs["gap"].mean() - predicted) < 4 * error + 0.05 * predicted  # and O(1/H): requests in service


def test_wait_never_evicts_and_never_needs_more_than_its_full_batch():
    study = e11()
    runs = run_cases(study, ["wait_equality", "wait_slack", "wait_two"], "tiny")
    assert runs["evictions"].max() == 0
    for key in ("wait_equality", "wait_slack", "wait_two"):
        assert runs.filter(pl.col("case") == key)["peak"].max() <= study.offered(study.cases[key]).memory


def test_slack_and_equality_scale_differently():
    tiny = {"horizon": 10_000, "replications": 40, "overflow": [{"iterations": 30, "runs": 5}]}
    study = e11(scales={"tiny": tiny}, fit_decades=2)
    found = scaling.fitted(study, run_cases(study, ["wait_equality", "wait_slack"], "tiny"), 1)
    at = {(row["case"], row["quantity"]): row for row in found.iter_rows(named=True)}
    assert at["wait_slack", "gap"]["expected"] == -1.0 and at["wait_equality", "gap"]["expected"] == -0.5
    assert at["wait_slack", "gap"]["high"] < at["wait_equality", "gap"]["low"]
    assert at["wait_slack", "latency"]["high"] < 0.2 < at["wait_equality", "latency"]["low"]
    assert -1.2 < at["wait_slack", "gap"]["exponent"] < -0.85


def test_fcfs_and_unknown_lengths_keep_a_gap_that_wait_does_not():
    tiny = {"horizon": 3_000, "replications": 10, "overflow": [{"iterations": 30, "runs": 5}]}
    study = e11(scales={"tiny": tiny})
    table = gaps.summarised(study, run_cases(study, study.unknown_gap, "tiny"))
    last = table.filter(pl.col("iterations") == 3_000)
    wait = last.filter(pl.col("case") == "wait_two").row(0, named=True)
    assert wait["relative_gap_high"] < 0.03
    others = last.filter(pl.col("case") != "wait_two")
    assert len(others) == 4  # two thresholds of Nested WAIT
    assert others["relative_gap_low"].min() > 0.05
    assert others.filter(pl.col("case") == "reserving_two")["evictions"][0] == 0
    assert others.filter(pl.col("case") == "fcfs_two")["evictions"][0] > 0.3


def test_toy_is_what_the_paper_says():
    table = toy.table(e11().toy)
    means = {
        key: rows["completions"].to_list() for key, rows in table.group_by(["start", "policy"], maintain_order=True)
    }
    assert set(means["balanced", "fcfs"]) == set(means["balanced", "wait"]) == {4.0}
    assert all(3.0 <= mean <= 3.5 for mean in means["unbalanced", "fcfs"])
    assert means["unbalanced", "wait"][1:] == [4.0] * 3
    assert table.filter(pl.col("policy") == "wait")["evictions"].max() == 0


def test_overflow_rows_add_up_and_the_bound_holds():
    study = e11()
    peaks = overflow.peaks(study, [5, 3], 30, 200, "tiny")
    rows = overflow.rows_of(study, [5, 3], 30, peaks)
    for row in rows:
        assert row["required"] == pytest.approx(row["base"] + row["queue"] + row["buffer"])
        assert row["frequency"] == np.mean(peaks > row["required"])
        assert row["low"] <= row["frequency"] <= row["high"] and row["holds"]
    assert [row["delta"] for row in rows] == [0.5, 0.1] and rows[0]["required"] < rows[1]["required"]
    assert rows[0]["base"] == 123  # 5 x (2 + 3 + 4) + 3 x (5 + 6 + 7 + 8)
    assert rows[0]["quantile"] == np.median(peaks)


def test_seed_sets_are_different_runs_of_the_same_size():
    study = e11()
    first, again, other = (run_cases(study, ["wait_slack"], scale) for scale in ("tiny", "tiny", "tiny-seeds2"))
    assert first.equals(again)
    assert len(first) == len(other) and not np.array_equal(first["latency"], other["latency"])


BAD = {
    "an unknown instance": ({"instance": "thre"}, "'thre' is not an instance"),
    "nested without boundaries": ({"policy": "nested_wait"}, "needs both"),
    "boundaries without nested": ({"boundaries": [2], "thresholds": [[2]]}, "belong to nested_wait"),
    "thresholds of another length": (NESTED | {"thresholds": [[5, 3, 1]]}, "needs 2 whole numbers"),
    "conditions that do not hold strictly": (NESTED | {"slack": 0.2, "thresholds": [[5, 2]]}, "do not meet"),
    "boundaries that end too soon": (NESTED | {"boundaries": [2, 5], "thresholds": [[5, 3]]}, "longest output"),
    "a negative slack": ({"slack": -0.1}, "slack: input should be greater than or equal to 0, found -0.1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_is_one_line(name):
    changes, told = BAD[name]
    data = e11_data()
    data["cases"]["wait_slack"] = {"label": "x", "instance": "single", "policy": "wait"} | changes
    with pytest.raises(ConfigError) as caught:
        parse(E11, data, "e11.yaml")
    assert told in str(caught.value) and str(caught.value).startswith("e11.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fcfs_gap": ["wait_tow"]}, "'wait_tow' is not a case"),
        ({"overflow": {"case": "nested_two", "risks": [0.1]}}, "with slack and unlimited memory"),
        ({"overflow": {"case": "nested_slack", "risks": [1.5]}}, "must lie in (0, 1)"),
        ({"first_horizon": 300}, "above first_horizon"),
        ({"instances": {"single": SINGLE | {"d0": 0}}}, "instances.single.d0"),
        ({"sclaing": {}}, "did you mean 'scaling'?"),
        ({"scaling": {"a/b": []}}, "scaling: 'a/b': a key consists of letters"),
        ({"fit_decades": float("inf")}, "fit_decades: input should be a finite number"),
        ({"horizons_per_decade": 10**9}, "horizons_per_decade: input should be less than or equal to 100"),
        ({"title": "a\nb"}, "title: must be printable text on one line"),
        (
            {"scales": {"x": {"horizon": 1e300, "replications": 2, "overflow": [{"iterations": 9, "runs": 1}]}}},
            "scales.x.horizon: input should be less than or equal to",
        ),
        (
            {"scales": {"x": {"horizon": 1e4, "replications": 10**9, "overflow": [{"iterations": 9, "runs": 10**9}]}}},
            "scales.x.replications: input should be less than or equal to 10000",
        ),
    ],
)
def test_a_bad_study_is_one_line(changes, told):
    with pytest.raises(ConfigError) as caught:
        e11(**changes)
    assert told in str(caught.value) and "\n" not in str(caught.value)
