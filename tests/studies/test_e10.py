"""E10: policies in vLLM's scheduler on the A100's clock. Its tables, its mistakes, and the law that auto mode obeys."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from small_studies import e10, e10_data

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.studies.clock import Case, check, points, summarised
from fluidwait.studies.clock import _row as run_row
from fluidwait.studies.clock_audit import sample
from fluidwait.studies.e10 import E10
from fluidwait.studies.registry import load_study

WORST_MEAN, WORST_P99 = 0.01, 0.02
"""Most that auto mode may be slower than vLLM's own scheduler."""


def rows_of(study: E10, load: str, scale: str, policies=None) -> pl.DataFrame:
    case = Case(study, load)
    return pl.DataFrame([run_row(case, p, scale) for p in points(study, load, scale) if policies in (None, p.policy)])


def table_of(study: E10, scale: str) -> pl.DataFrame:
    rows = pl.concat([rows_of(study, load, scale) for load in study.loads])
    labels = {key: curve.label for key, curve in study.policies.items()}
    return summarised(rows, study.baseline, labels, {key: load.label for key, load in study.loads.items()})


def test_rates_are_shares_of_what_the_fluid_model_carries():
    case = Case(e10(), "short")
    assert case.rate(0.7) == pytest.approx(0.7 * case.bound, rel=1e-3)
    assert case.bound == pytest.approx(25.94, rel=1e-3)  # E1's boundary: memory is ample, 2,048 tokens are enough


def test_all_policies_meet_the_same_requests_and_the_baseline_does_not_differ_from_itself():
    table = table_of(e10(), "tiny")
    assert table.height == 2 * (2 * 3 + 1)
    base = table.filter(pl.col("is_baseline"))
    assert base["policy"].unique().to_list() == ["vllm"]
    assert base.select(pl.sum_horizontal(pl.col("change", "change_p99", "change_ttft").abs()).sum()).item() == 0
    assert (table["low"] <= table["mean"]).all() and (table["mean"] <= table["high"]).all()


def test_the_change_is_paired():
    """Twice the latency in every replication is a change of 100 %, whatever the replications differ by."""
    names = {"p99": 1.0, "ttft": 1.0, "tpot": 1.0, "throughput": 1.0, "preemptions": 0.0, "recomputed": 0.0}
    rows = [
        {"workload": "a", "share": 0.5, "rate": 1.0, "policy": key, "replication": k, "mean": scale * (1 + k)} | names
        for key, scale in (("x", 1.0), ("y", 2.0))
        for k in range(4)
    ]
    table = summarised(pl.DataFrame(rows), "x", {"x": "X", "y": "Y"}, {"a": "A"})
    other = table.filter(pl.col("policy") == "y").row(0, named=True)
    assert (other["change"], other["change_low"], other["change_high"]) == (1.0, 1.0, 1.0)
    assert other["mean"] == 5.0 and other["low"] < 5.0 < other["high"]


def test_the_audit_samples_every_policy():
    study = e10()
    drawn = sample(study, "tiny")
    assert {point.policy for _, point in drawn} == set(study.policies)
    assert drawn == sample(study, "tiny")


MISTAKES = {
    "baseline": ({"baseline": "vlm"}, "baseline: no policy 'vlm' (did you mean 'vllm'?)"),
    "shares": ({"shares": [0.9, 0.5]}, "must increase"),
    "a key": ({"policies": {"a b": {"label": "x", "use": "vllm_v1"}}, "baseline": "a b"}, "'a b': a key consists of"),
    "a load": (
        {"policies": e10_data()["policies"] | {"x": {"label": "x", "use": "vllm_v1", "loads": ["chot"]}}},
        "policies.x.loads: no load 'chot' (did you mean 'chat'?)",
    ),
    "labels": (
        {"policies": e10_data()["policies"] | {"x": {"label": "vLLM", "use": "vllm_v1"}}},
        "policies: two have the same label, 'vLLM'",
    ),
    "semantics": ({"semantics": "serving"}, "semantics"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_key(name):
    change, told = MISTAKES[name]
    with pytest.raises(ConfigError, match="e10.yaml") as raised:
        parse(E10, e10_data() | change, "e10.yaml")
    assert told in str(raised.value)


def test_more_blocks_than_the_hardware_has():
    loads = e10_data()["loads"]
    loads["short"]["kv_blocks"] = 10**6
    with pytest.raises(ConfigError, match=r"loads.short.kv_blocks: 1000000 is more than .*nearest valid value: \d+"):
        Case(e10(loads=loads), "short")


UNSERVED = {
    "learns": ({"use": "sarathi", "learns": True}, "learns: 'sarathi' is no policy for that: it plans by itself"),
    "segments": ({"use": "wait_chunked", "settings": {"segments": 2}}, "segments: must lie in 1..1"),
    "reserves": ({"use": "orca"}, "'orca' reserves memory"),
    "too few tokens": (
        {"use": "vllm_v1", "settings": {"token_budget": 10}},
        "256 requests in service, but batches of 10",
    ),
    "for ever": ({"use": "wait", "settings": {"max_wait": float("inf")}}, "max_wait: must be finite"),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_what_no_run_could_serve_is_found_before(name):
    curve, told = UNSERVED[name]
    study = e10(policies=e10_data()["policies"] | {"odd": {"label": "x"} | curve})
    with pytest.raises(ConfigError, match="study e10: policies.odd on loads.short") as raised:
        check(study, "tiny")
    assert told in str(raised.value)


def test_what_ships_can_be_served():
    for scale in ("quick", "paper"):
        check(load_study("e10"), scale)


@pytest.mark.parametrize("load", load_study("e10").loads)
def test_auto_mode_is_never_slower_than_vllms_own_scheduler(load):
    """On every load and at every rate of E10, past the boundary too; three replications of half the requests."""
    study = load_study("e10")
    policies = {key: study.policies[key] for key in ("vllm_v1", "auto")}
    scales = {"paper": study.scales["paper"].model_copy(update={"replications": 3, "requests": 0.5})}
    rows = rows_of(study.model_copy(update={"policies": policies, "scales": scales}), load, "paper")
    labels = dict.fromkeys(policies, "")
    table = summarised(rows, "vllm_v1", labels, {load: ""}).filter(pl.col("policy") == "auto")
    assert len(table) == len(study.shares)
    assert (table["change"] <= WORST_MEAN).all(), table.select("rate", "change")
    assert (table["change_p99"] <= WORST_P99).all(), table.select("rate", "change_p99")
    assert np.median(table["change"]) < -0.02


COMMITTED = pl.read_csv(project_root() / "paper" / "vllm_clock.csv")


def test_the_committed_table_covers_the_study():
    study = load_study("e10")
    wanted = {(load, share, key) for load in study.loads for share in study.shares for key in study.served(load)}
    assert set(COMMITTED.select("workload", "share", "policy").iter_rows()) == wanted
    assert COMMITTED["replications"].unique().to_list() == [study.scale("paper").replications]


def test_the_committed_table_is_what_the_study_gives():
    """One rate of one load, every policy but the one that takes long, all replications."""
    study = load_study("e10")
    policies = {key: study.policies[key] for key in ("vllm_v1", "wait")}
    some = study.model_copy(update={"policies": policies, "shares": [0.7]})
    labels = {key: curve.label for key, curve in policies.items()}
    found = summarised(rows_of(some, "single", "paper"), "vllm_v1", labels, {"single": study.loads["single"].label})
    committed = COMMITTED.filter((pl.col("workload") == "single") & (pl.col("share") == 0.7))
    committed = committed.filter(pl.col("policy").is_in(list(policies)))
    assert found.write_csv() == committed.write_csv()


def test_the_committed_table_obeys_the_law():
    auto = COMMITTED.filter(pl.col("policy") == "auto")
    assert (auto["change"] <= WORST_MEAN).all() and (auto["change_p99"] <= WORST_P99).all()
