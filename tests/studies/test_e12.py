"""E12: what each policy carries, and the envelope of the static ones. Laws of its tables, its mistakes, its λ*."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from small_studies import e12, e12_data

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.experiments.bisection import lambda_star
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.e12 import E12
from fluidwait.studies.frontier import Case, _rows, _static_rows, check, every_static
from fluidwait.studies.frontier_tables import best, ranked, summarised
from fluidwait.studies.registry import load_study

NOISE = 0.01
"""By which a share may be above 1 where batches of one size are the best: the runs are finite."""


def tables(study: E12, scale: str) -> tuple[E12, pl.DataFrame, pl.DataFrame]:
    study = study.at(scale)
    cases = [Case(study, load) for load in study.loads]
    return study, *(pl.concat([make(case, scale) for case in cases]) for make in (_rows, _static_rows))


@pytest.fixture(scope="module")
def made() -> tuple[E12, pl.DataFrame, pl.DataFrame]:
    return tables(e12(), "tiny")


def test_there_is_a_row_for_every_run(made):
    study, runs, statics = made
    assert list(study.loads) == ["short", "chat", "away"] and list(study.policies) == ["vllm", "fixed", "wait"]
    assert runs.height == (3 + 3 + 2) * 3 * 2  # two rates and the overload, two replications
    told = runs.filter(pl.col("carried").is_not_null())
    assert told["share"].unique().to_list() == [1.2] and told["requests"].unique().to_list() == [800]
    assert statics.filter(~pl.col("final")).height == 3 * 2 * 9
    assert statics.filter(~pl.col("final"))["requests"].unique().to_list() == [200]


def test_rates_are_shares_of_the_usable_bound(made):
    study, runs, _ = made
    for load in study.loads:
        case = Case(study, load)
        of_load = runs.filter(pl.col("workload") == load)
        assert case.bound <= case.fluid_bound
        assert np.allclose(of_load["rate"], of_load["share"] * case.bound, rtol=1e-3)
    assert Case(study, "short").bound == pytest.approx(25.94, rel=1e-3)  # E1's: memory is ample
    assert Case(study, "chat").bound < Case(study, "chat").fluid_bound


def test_nobody_carries_more_than_the_usable_bound(made):
    """Of equal lengths; docs/frontier.md says when batches of changing size carry more."""
    study, runs, statics = made
    shares = ranked(study, runs, statics).filter(pl.col("workload") != "chat")["share_of_usable_bound"]
    assert (shares <= 1 + NOISE).all() and (shares > 0.8).all()


def test_the_envelope_is_at_most_every_static_policy_that_was_run_to_the_end(made):
    study, _, statics = made
    chosen = best(statics)
    assert chosen.height == 3 * 2
    for row in chosen.iter_rows(named=True):
        of_point = statics.filter((pl.col("workload") == row["workload"]) & (pl.col("share") == row["share"]))
        means = of_point.filter("final").group_by("settings").agg(pl.col("mean").mean(), pl.len())
        assert row["mean"] == means["mean"].min() and means["len"].unique().to_list() == [2]
        assert row["tried"] == 9 and row["final"] == means.height <= study.envelope.kept
        assert row["low"] <= row["mean"] <= row["high"]


def test_the_first_pass_keeps_the_best_and_one_of_those_that_agree(made):
    """The caps of 1,000 and 2,000 requests never bind: they are one policy."""
    study, _, statics = made
    for (_, share), part in statics.group_by(["workload", "share"], maintain_order=True):
        first = part.filter(~pl.col("final")).sort("mean", maintain_order=True).unique("mean", maintain_order=True)
        kept = part.filter("final")["settings"].unique(maintain_order=True)
        assert set(kept) == set(first["settings"][: study.envelope.kept]), share
        assert all(json.loads(settings)["max_requests"] != 2000 for settings in kept)


def test_a_policy_that_is_a_static_one_is_the_same_run(made):
    """Sarathi with 384 tokens is among both: the ratio is 1 where it is the best, and never below."""
    study, runs, statics = made
    table = summarised(study, runs, statics)
    fixed = table.filter((pl.col("policy") == "fixed") & (pl.col("workload") == "short"))
    assert (fixed["ratio"] >= 1 - 1e-12).all()
    settings = best(statics).filter(pl.col("workload") == "short")["settings"]
    same = [json.loads(chosen)["token_budget"] == 384 for chosen in settings]
    assert any(same) and fixed.filter(pl.Series(same))["ratio"].to_list() == [1.0] * sum(same)


def test_the_baseline_does_not_differ_from_itself(made):
    study, runs, statics = made
    table = summarised(study, runs, statics)
    base = table.filter(pl.col("is_baseline"))
    assert base["policy"].unique().to_list() == ["vllm"]
    assert base.select(pl.sum_horizontal(pl.col("change", "change_p99", "change_ttft").abs()).sum()).item() == 0


def test_the_frontier_is_the_worst_of_the_rates(made):
    study, runs, statics = made
    points, table = summarised(study, runs, statics), ranked(study, runs, statics)
    assert table.null_count().sum_horizontal().item() == 0 and table.height == 3 + 3 + 2
    wanted = {"lambda_star", "low", "high", "share_of_usable_bound", "share_of_bound", "recomputed_share"}
    wanted |= {"workload", "policy", "lengths", "worst_latency_ratio", "worst_p99_ratio", "latency_change"}
    assert wanted <= set(table.columns) and table["lengths"].unique().to_list() == ["unknown"]
    for row in table.iter_rows(named=True):
        of_row = (pl.col("workload") == row["workload"]) & (pl.col("policy") == row["policy"])
        assert row["worst_latency_ratio"] == points.filter(of_row)["ratio"].max()
        assert row["worst_p99_ratio"] == points.filter(of_row)["ratio_p99"].max()
        assert row["latency_change"] == points.filter(of_row & (pl.col("share") == 0.85))["change"].item()
        assert row["low"] <= row["lambda_star"] <= row["high"]
        assert row["share_of_bound"] <= row["share_of_usable_bound"]
        assert 0 <= row["recomputed_share"] < 1


def test_what_is_recomputed_is_seen_where_memory_is_short(made):
    study, runs, _ = made
    over = runs.filter((pl.col("share") == 1.2) & (pl.col("policy") == "vllm"))
    assert over.filter(pl.col("workload") == "chat")["recomputed"].min() > 0
    assert over.filter(pl.col("workload") == "short")["recomputed"].max() == 0


# --- λ* from overload, against the search by bisection ----------------------------------------------------------------

COMPARED = {
    "one type": ({"workload": "p512d20", "requests": 4000}, "vllm_v1", 0.005),
    "evictions": ({"workload": "p512d1000", "requests": 1500, "kv_blocks": 2304}, "vllm_v1", 0.015),
    "a gate": ({"workload": "two_types", "requests": 4000}, "wait_chunked", 0.01),
}
"""Load, policy, and how far apart the two may be, as a share."""


@pytest.mark.parametrize("name", COMPARED)
def test_overload_tells_what_bisection_finds(name):
    load, use, within = COMPARED[name]
    policies = {"vllm": {"label": "x", "use": use}}
    study = e12(
        loads={"one": {"label": "one"} | load},
        policies=policies,
        drawn={"loads": ["one"], "policies": ["vllm"]},
        scales={"tiny": {"replications": 2}},
    )
    case = Case(study, "one")
    told = _rows(case, "tiny").filter(pl.col("carried").is_not_null())["carried"] * case.bound
    policy, found = case.policy("vllm"), []
    for replication in range(2):
        requests = case.requests(1.0, replication, load["requests"], "tiny")

        def serve(arrival: np.ndarray, rate: float) -> np.ndarray:
            drawn = requests._replace(arrival=arrival)  # noqa: B023
            return case.run(policy, case.knobs(policy, rate), drawn).completion

        found.append(lambda_star(serve, requests.arrival, 0.7 * case.bound, 1.1 * case.bound, 0.005 * case.bound))
    assert mean_interval(told).mean == pytest.approx(mean_interval(found).mean, rel=within)


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    "baseline": ({"baseline": "vlm"}, "baseline: no policy 'vlm' (did you mean 'vllm'?)"),
    "shares": ({"shares": [0.9, 0.5]}, "must increase"),
    "compared": ({"compared": 0.8}, "compared: 0.8 is none of the shares of scale 'tiny' (nearest valid value: 0.85)"),
    "a drawn load": ({"drawn": {"loads": ["chot"], "policies": ["vllm"]}}, "drawn.loads: no load 'chot' (did you mean"),
    "a load of a scale": (
        {"scales": {"tiny": {"replications": 2, "loads": ["shrt"]}}},
        "scales.tiny.loads: no load 'shrt' (did you mean 'short'?)",
    ),
    "a scale without the baseline": (
        {"scales": {"tiny": {"replications": 2, "policies": ["wait"]}}},
        "scales.tiny.policies: the baseline, 'vllm', is missing",
    ),
    "overload": ({"overload": {"share": 0.9}}, "overload.share"),
    "the policy in a grid": (
        {"envelope": e12_data()["envelope"] | {"grid": {"policy": ["orca"]}}},
        "'policy' is no setting",
    ),
    "error": (
        {"policies": e12_data()["policies"] | {"x": {"label": "x", "use": "vllm_v1", "predictions": {"error": -1}}}},
        "policies.x.predictions.error",
    ),
    "semantics": (
        {
            "loads": e12_data()["loads"]
            | {"x": {"label": "x", "workload": "p512d20", "requests": 40, "semantics": "vllm"}}
        },
        "loads.x.semantics",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_key(name):
    change, told = MISTAKES[name]
    with pytest.raises(ConfigError, match="e12.yaml") as raised:
        parse(E12, e12_data() | change, "e12.yaml")
    assert told in str(raised.value) and "\n" not in str(raised.value)


UNSERVED = {
    "too short a reservation": ({"use": "orca", "settings": {"max_model_len": 64}}, "'orca' reserves 64 tokens"),
    "segments": ({"use": "wait_chunked", "settings": {"segments": 2}}, "segments: must lie in 1..1"),
    "a setting": ({"use": "sarathi", "settings": {"token_budge": 2}}, "token_budge"),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_what_no_run_could_serve_is_found_before(name):
    curve, told = UNSERVED[name]
    scales = {"tiny": {"replications": 2, "loads": ["short"]}}
    study = e12(policies=e12_data()["policies"] | {"odd": {"label": "x"} | curve}, scales=scales)
    with pytest.raises(ConfigError, match=r"study e12: policies\.odd") as raised:
        check(study, "tiny")
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_a_static_policy_that_cannot_serve_is_found_before():
    envelope = e12_data()["envelope"] | {"use": "orca", "grid": {"max_model_len": [64, 4096]}}
    with pytest.raises(ConfigError, match=r"study e12: envelope\.grid on loads\.short: .*'orca' reserves 64 tokens"):
        check(e12(envelope=envelope), "tiny")


def test_a_profile_that_a_run_does_not_cover_is_found_before():
    loads = e12_data()["loads"] | {"short": {"label": "x", "workload": "p512d20-changing", "requests": 400}}
    with pytest.raises(ConfigError, match=r"study e12: loads\.short: rate .*nearest valid number of requests"):
        check(e12(loads=loads), "tiny")


def test_what_ships_can_be_served():
    study = load_study("e12")
    for scale in ("quick", "paper"):
        check(study, scale)
    assert len(every_static(Case(study, "single"))) == 11 * 6


COMMITTED = pl.read_csv(project_root() / "paper" / "frontier.csv")
LOOK = COMMITTED.filter(pl.col("policy").str.starts_with("look"))


def test_the_committed_table_covers_the_study():
    study = load_study("e12")
    wanted = {(load, key) for load in study.loads for key in study.served(load)}
    assert set(COMMITTED.select("workload", "policy").iter_rows()) == wanted


def test_the_committed_table_is_what_the_study_gives():
    """One load, vLLM's rule and the look-ahead, their overload runs, all replications."""
    study = load_study("e12")
    policies = {key: study.policies[key] for key in ("vllm_v1", "look_known")}
    grid = {"token_budget": [256], "max_requests": [64]}
    envelope = study.envelope.model_copy(update={"grid": grid})
    drawn = study.drawn.model_copy(update={"policies": ["vllm_v1"]})
    loads = {"long_tight": study.loads["long_tight"]}
    some = study.model_copy(update={"policies": policies, "loads": loads, "envelope": envelope, "drawn": drawn})
    rows = _rows(Case(some, "long_tight"), "paper").filter(pl.col("carried").is_not_null())
    for key in policies:
        carried = rows.filter(pl.col("policy") == key)["carried"].mean()
        committed = COMMITTED.filter((pl.col("workload") == "long_tight") & (pl.col("policy") == key))
        assert committed["share_of_usable_bound"].item() == pytest.approx(carried, rel=1e-9)


def test_the_look_ahead_is_at_the_frontier():
    """What docs/frontier.md says of the committed numbers."""
    assert LOOK["share_of_usable_bound"].min() >= 0.965
    calm = LOOK.filter(~pl.col("workload").is_in(["bursty", "decode"]))
    assert calm["worst_latency_ratio"].max() <= 1.025 and LOOK["worst_latency_ratio"].max() <= 1.08
    assert LOOK["latency_change"].max() <= 0
    assert LOOK.filter(pl.col("lengths") == "known")["recomputed_share"].max() == 0
    elsewhere = LOOK.filter(pl.col("workload") != "chat_tight")
    assert elsewhere["recomputed_share"].max() <= 0.001 and LOOK["recomputed_share"].max() <= 0.02
