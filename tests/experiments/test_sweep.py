"""Sweeps, tuning, audit and tables of a small experiment, step by step."""

from __future__ import annotations

import dataclasses
import json
import re

import making
import numpy as np
import polars as pl
import pytest

from fluidwait.artifacts.records import iter_runs
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.device.timing import TimeModel
from fluidwait.experiments import audit, boundaries, sweep
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.policies import load_policy
from fluidwait.stats.metrics import run_metrics

SMALL = {
    "id": "small",
    "title": "Small",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d20",
    "rates": [12, 24],
    "scales": {"tiny": {"requests": 80, "replications": 2, "tuning_requests": 60, "audit_requests": 50}},
    "policies": {
        "sarathi": {"use": "sarathi", "label": "Sarathi"},
        "tuned": {
            "use": "sarathi",
            "label": "Sarathi, tuned",
            "grid": {"token_budget": [128, 384], "max_requests": [4, 64]},
        },
        "wait": {"use": "wait_chunked", "label": "WAIT", "settings": {"chunk": 512}},
    },
}


@pytest.fixture(scope="module")
def small() -> Experiment:
    return parse(Experiment, SMALL, "small.yaml")


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    tuning = folder / "tuning" / "tuned.csv"
    making.tune(small, "tuned", "tiny", tuning)
    tables = {}
    for key in small.policies:
        records = folder / "records" / f"{key}.parquet"
        making.sweep(small, key, "tiny", records, tuning if key == "tuned" else None)
        tables[key] = folder / "metrics" / f"{key}.csv"
        making.metrics(small, records, tables[key])
    making.summary(small, tables, folder / "summary.csv")
    making.stability(small, tables, folder / "stability.csv")
    return folder


def test_every_policy_meets_the_same_requests(made, small):
    seen = {
        key: {run.run_id: run.columns for run in iter_runs(made / "records" / f"{key}.parquet")}
        for key in small.policies
    }
    assert set(seen["sarathi"]) == {f"rate={rate},replication={r}" for rate in (12, 24) for r in (0, 1)}
    for name, columns in seen["sarathi"].items():
        for key in ("tuned", "wait"):
            for column in ("arrival", "prompt_tokens", "output_tokens", "kind"):
                assert np.array_equal(columns[column], seen[key][name][column])
            assert not np.array_equal(columns["completion"], seen[key][name]["completion"])


def test_tuning_tries_every_combination_and_picks_the_best_on_other_requests(made, small):
    table = pl.read_csv(made / "tuning" / "tuned.csv")
    assert table.height == 2 * 4
    for (rate,), part in table.group_by("rate"):
        best = part.filter("winner")
        assert best.height == 1
        assert best["mean_latency"][0] == part["mean_latency"].min()
        (metadata,) = {
            run.parameters["settings"]
            for run in iter_runs(made / "records" / "tuned.parquet")
            if run.parameters["rate"] == rate
        }
        assert json.loads(best["settings"][0]).items() <= json.loads(metadata).items()
    setting = resolve(small)
    evaluation = setting.requests(60, 12, small.seed, 0)
    tuning = setting.requests(60, 12, small.tuning_seed, 0)
    assert not np.intersect1d(evaluation.arrival, tuning.arrival).size


def test_summary_is_the_mean_of_the_runs(made, small):
    table = pl.read_csv(made / "summary.csv")
    assert table.select("policy", "rate").rows() == [(key, rate) for key in small.policies for rate in (12.0, 24.0)]
    runs = [run_metrics(run.columns) for run in iter_runs(made / "records" / "wait.parquet")]
    expected = np.mean([runs[0].mean_latency, runs[1].mean_latency])
    row = table.filter((pl.col("policy") == "wait") & (pl.col("rate") == 12)).row(0, named=True)
    assert row["mean_latency"] == pytest.approx(expected, rel=1e-12)
    assert row["mean_latency_low"] < row["mean_latency"] < row["mean_latency_high"]
    assert row["replications"] == 2


def test_predicted_boundary_of_sarathi_is_what_full_batches_carry(made):
    table = pl.read_csv(made / "stability.csv")
    row = table.filter(pl.col("policy") == "sarathi").row(0, named=True)
    # 512 tokens a batch, 531 a request, 0.0400 s a full batch: about 24.1 requests/s
    assert row["predicted"] == pytest.approx(24.1, abs=0.2)
    assert table.filter(pl.col("policy") == "tuned")["predicted"][0] is None


def test_artifacts_verify_and_name_their_configuration(made):
    assert verify(made, project_root()) == []
    sidecar = read_sidecar(made / "records" / "wait.parquet")
    assert sidecar.config["policy"]["settings"]["chunk"] == 512
    assert "fluidwait.policies.wait_chunked" in sidecar.code
    assert "fluidwait.policies.sarathi" not in sidecar.code
    assert "fluidwait.experiments.figures" not in str(sidecar.code)


def test_the_same_bytes_again(made, small, tmp_path):
    again = tmp_path / "again.parquet"
    making.sweep(small, "wait", "tiny", again)
    assert again.read_bytes() == (made / "records" / "wait.parquet").read_bytes()


def test_audit_repeats_at_least_its_share_of_every_policy_and_agrees(made, small, tmp_path):
    pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
    out = tmp_path / "audit.csv"
    making.audit(small, "tiny", out, {"tuned": made / "tuning" / "tuned.csv"})
    table = pl.read_csv(out)
    assert table["policy"].unique(maintain_order=True).to_list() == list(small.policies)
    assert table.group_by("policy").len()["len"].min() >= small.audit_share * 4
    schedulers = dict(table.group_by("policy").agg(pl.col("scheduler").unique().first()).iter_rows())
    assert schedulers == {"sarathi": "Vidur's", "tuned": "Vidur's", "wait": "ours in Vidur"}
    assert table["max_abs_completion"].max() <= audit.TOLERANCE
    assert verify(tmp_path, project_root()) == []


def test_audit_fails_when_the_engines_differ(made, small, tmp_path, monkeypatch):
    pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
    real = audit.simulate
    shifted = 2e-9  # s
    monkeypatch.setattr(
        audit, "simulate", lambda *a, **k: (run := real(*a, **k))._replace(completion=run.completion + shifted)
    )
    out = tmp_path / "audit.csv"
    with pytest.raises(audit.AuditError, match=r"small, sarathi, rate .*: simulator and Vidur differ by 2e-09 s"):
        making.audit(small, "tiny", out, {"tuned": made / "tuning" / "tuned.csv"})
    assert list(tmp_path.iterdir()) == []


def test_reference_columns_and_distances(small, tmp_path):
    experiment = load_experiment("e1").model_copy(
        update={"scales": {"tiny": parse(Experiment, SMALL, "x").scales["tiny"]}}
    )
    out = tmp_path / "reference.csv"
    making.table(experiment, "reference", "tiny", out)
    table = pl.read_csv(out)
    assert table.height == 26
    assert np.allclose(table["exact_distance"], table["exact"] / table["published"] - 1)
    assert table.filter(pl.col("policy") == "sarathi")["gated"].is_null().all()


def test_scaled_time_scales_latency(small):
    # With arrivals slowed down as well, everything is the same film at another speed.
    setting = resolve(small)
    policy = setting.policy("sarathi")
    requests = setting.requests(200, 20, 3, 0)
    slow = requests._replace(arrival=requests.arrival * 1.25)
    plain = sweep.run_once(setting, "sarathi", policy, requests, 20)
    longer = TimeModel(*(part * 1.25 for part in setting.time_model))
    other = sweep.run_once(dataclasses.replace(setting, time_model=longer), "sarathi", policy, slow, 16)
    assert np.allclose(other.completion, plain.completion * 1.25, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"polices": {}}, "x.yaml: polices: unknown key (did you mean 'policies'?)"),
        ({"rates": [12, -1]}, "x.yaml: rates: must be increasing rates above 0 requests/s"),
        ({"rates": [12, 0.0]}, "x.yaml: rates: must be increasing rates above 0 requests/s"),
        (
            {"rates": {"start": 12, "stop": 26, "step": 5}},
            "rates: stop: 26 is no number of steps from start (nearest valid value: 22)",
        ),
        ({"scales": {"tiny": SMALL["scales"]["tiny"] | {"rates": [24, 12]}}}, "must be increasing rates above 0"),
        ({"scales": {"tiny": SMALL["scales"]["tiny"] | {"rates": [12, 12]}}}, "must be increasing rates above 0"),
        ({"tuning_seed": 1}, "x.yaml: tuning_seed: must differ from seed"),
        ({"hardware": "a100-80g_llama-2-7"}, "a100-80g_llama-2-7b"),
        ({"workload": "p512d2"}, "p512d20"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        resolve(parse(Experiment, SMALL | change, "x.yaml"))
    assert "\n" not in str(error.value)


def test_requests_longer_than_the_memory_are_refused_before_anything_runs(tmp_path):
    workload = tmp_path / "long.yaml"
    workload.write_text(
        "name: long\nlengths: {kind: fixed, prompt: 200000, output: 20}\narrivals: {process: poisson}\n"
    )
    with pytest.raises(ConfigError, match=r"experiment small: workload long: .*200020") as error:
        resolve(parse(Experiment, SMALL | {"workload": str(workload)}, "x.yaml"))
    assert "\n" not in str(error.value)


def test_an_unknown_policy_or_scale_names_the_nearest(small):
    with pytest.raises(ConfigError, match=r"no policy 'sarati' \(did you mean 'sarathi'\?\)"):
        small.entry("sarati")
    with pytest.raises(ConfigError, match=r"scale 'tini' is not defined \(did you mean 'tiny'\?\)"):
        small.scale("tini")


def test_a_wrong_setting_names_experiment_policy_and_key(small):
    wrong = SMALL | {"policies": {"s": {"use": "sarathi", "label": "S", "settings": {"token_buget": 5}}}}
    setting = resolve(parse(Experiment, wrong, "x.yaml"))
    with pytest.raises(ConfigError, match=r"experiment small: policies.s: token_buget: unknown key \(did you mean"):
        setting.policy("s")


def test_thresholds_table_curve_and_boundary_agree(small, tmp_path):
    out = tmp_path / "thresholds.csv"
    making.thresholds(small, "tiny", out)
    whole = json.loads(out.with_suffix(".json").read_text())
    table = pl.read_csv(out)
    assert table["rate"].to_list() == [12.0, 24.0]
    curve, edge = whole["calibrated_curve"], whole["calibrated_boundary"]
    assert curve["rate"][0] == 12.0
    assert curve["rate"][-1] < edge["rate"]
    assert curve["memory"][0] == pytest.approx(table["calibrated_memory"][0])
    assert max(curve["memory"]) <= edge["memory"] * (1 + 1e-9)
    assert whole["fluid_bound"] == boundaries.fluid_bound(resolve(small))  # as in the table of all boundaries


def test_a_seed_set_is_the_same_scale_on_other_requests(small):
    other = "tiny-seeds2"
    assert small.scale(other) == small.scale("tiny") and small.rates_at(other) == small.rates_at("tiny")
    assert len({small.seed_at("tiny"), small.tuning_seed_at("tiny"), small.seed_at(other)}) == 3
    assert small.tuning_seed_at(other) not in (small.seed_at(other), small.tuning_seed_at("tiny"))
    for name in ("big-seeds2", "tiny-seeds0", "tiny-seeds02", "tiny-seeds" + 20 * "9", "tiny-seeds٣"):
        with pytest.raises(ConfigError, match=f"scale '{name}' is not defined"):
            small.scale(name)
    setting = resolve(small)
    first, second = (sweep.identity(setting, "sarathi", scale) for scale in ("tiny", other))
    assert first != second and {**second, "seed": first["seed"]} == first


def test_a_scale_without_an_audit_leaves_an_empty_table(small, tmp_path):
    scales = {"tiny": small.scale("tiny").model_copy(update={"audit_requests": 0})}
    out = tmp_path / "audit.csv"
    making.audit(small.model_copy(update={"scales": scales}), "tiny", out)
    assert pl.read_csv(out).columns == list(audit.SCHEMA) and pl.read_csv(out).is_empty()


def test_predicted_boundary_of_a_users_policy_comes_from_its_limits(small, tmp_path, monkeypatch):
    """The same limits, the same prediction; "not modelled" unless the file says that a backlog fills its batches."""
    setting = resolve(small)
    expected = boundaries.predicted_boundary(setting, "sarathi")
    for name, names in (("says", "Settings, fills_batches, limits, plan"), ("silent", "Settings, limits, plan")):
        path = tmp_path / f"{name}.py"
        path.write_text(f"from fluidwait.policies.sarathi import {names}\n")
        own = load_policy({"policy": str(path)})
        monkeypatch.setattr(type(setting), "policy", lambda *_, own=own: own)
        found = boundaries.predicted_boundary(setting, "sarathi")
        assert found == (expected if name == "says" else (None, "not modelled"))
