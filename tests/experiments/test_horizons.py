"""Runs of several lengths in one experiment, and decode-only serving, from configuration to tables."""

from __future__ import annotations

import making
import numpy as np
import polars as pl
import pytest

from fluidwait.artifacts.records import iter_runs
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.experiments import audit
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.stats.metrics import run_metrics

LONG = {
    "id": "long",
    "title": "Long",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d20",
    "rates": [12, 24],
    "horizons": [40, 80, 120],
    "audit_share": 0.2,
    "scales": {
        "tiny": {"requests": 50, "replications": 2, "tuning_requests": 40, "audit_requests": 60},
        "short": {"requests": 50, "replications": 1, "horizons": [40], "tuning_requests": 40, "audit_requests": 60},
    },
    "policies": {"sarathi": {"use": "sarathi", "label": "Sarathi"}},
}


@pytest.fixture(scope="module")
def long() -> Experiment:
    return parse(Experiment, LONG, "long.yaml")


@pytest.fixture(scope="module")
def made(long, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    records, metrics = folder / "records" / "sarathi.parquet", {"sarathi": folder / "metrics" / "sarathi.csv"}
    making.sweep(long, "sarathi", "tiny", records)
    making.metrics(long, records, metrics["sarathi"])
    making.summary(long, metrics, folder / "summary.csv")
    making.stability(long, metrics, folder / "stability.csv")
    return folder


def test_horizons_of_a_scale_come_before_those_of_the_experiment(long):
    assert long.horizons_at("tiny") == [40, 80, 120]
    assert long.horizons_at("short") == [40]
    assert long.model_copy(update={"horizons": None}).horizons_at("tiny") == [50]


def test_a_run_for_every_horizon_each_the_beginning_of_the_next(made):
    runs = {run.run_id: run.columns for run in iter_runs(made / "records" / "sarathi.parquet")}
    assert len(runs) == 2 * 3 * 2
    short, whole = runs["rate=24,requests=40,replication=1"], runs["rate=24,requests=120,replication=1"]
    assert len(short["arrival"]) == 40
    for column in ("arrival", "prompt_tokens", "output_tokens"):
        assert np.array_equal(short[column], whole[column][:40])
    # Nobody foresees arrivals: what is done before the short run ends does not depend on the rest.
    done = short["completion"] < short["arrival"][-1]
    assert done.any()
    assert np.array_equal(short["completion"][done], whole["completion"][:40][done])


def test_summary_has_a_row_per_rate_and_number_of_requests(made):
    table = pl.read_csv(made / "summary.csv")
    assert table.columns[:5] == ["policy", "label", "rate", "requests", "replications"]
    assert table["replications"].to_list() == [2] * 6
    points = table.select("rate", "requests").rows()
    assert points == [(rate, n) for rate in (12.0, 24.0) for n in (40, 80, 120)]
    at = [r for r in iter_runs(made / "records" / "sarathi.parquet") if r.run_id.startswith("rate=12,requests=80,")]
    expected = np.mean([run_metrics(run.columns).mean_latency for run in at])
    assert table["mean_latency"][1] == pytest.approx(expected, rel=1e-12)


def test_stability_is_judged_by_the_longest_runs(made, long, tmp_path):
    """Shorter runs may say what they like."""
    runs = pl.read_csv(made / "metrics" / "sarathi.csv")
    path = tmp_path / "sarathi.csv"
    runs.with_columns(stable=(pl.col("requests") == 120) & (pl.col("rate") == 12)).write_csv(path)
    making.stability(long, {"sarathi": path}, tmp_path / "stability.csv")
    assert pl.read_csv(tmp_path / "stability.csv")["grid_lambda_star"].to_list() == [12.0]


def test_artifacts_verify(made):
    assert verify(made, project_root()) == []


def test_audit_draws_from_all_horizons(long):
    pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
    drawn = audit.sample(long.model_copy(update={"audit_share": 1.0}), "sarathi", "tiny")
    assert sorted(drawn) == [(rate, n, r) for rate in (12, 24) for n in (40, 80, 120) for r in (0, 1)]
    assert len(audit.sample(long, "sarathi", "tiny")) == 3


@pytest.mark.parametrize(
    ("horizons", "message"),
    [
        ([80, 40], "x.yaml: horizons: must be increasing numbers of requests"),
        ([], "x.yaml: horizons: must be increasing numbers of requests"),
        ([30, 40], "x.yaml: horizons.0: input should be greater than or equal to 40, found 30"),
    ],
)
def test_mistakes_are_one_line(horizons, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        parse(Experiment, LONG | {"horizons": horizons}, "x.yaml")


def test_metrics_give_the_restart_rate():
    columns = {
        "arrival": np.arange(8.0),
        "first_token": np.arange(8.0) + 1,
        "completion": np.arange(8.0) + 2,
        "output_tokens": np.full(8, 5),
        "evictions": np.array([0, 0, 3, 0, 0, 0, 1, 0]),
    }
    found = run_metrics(columns)
    assert (found.evictions, found.evictions_per_request) == (4, 0.5)


# --- decode only ---------------------------------------------------------------------------------------------------


def test_decode_only_serving_computes_no_prompt(tmp_path):
    """E8 against the same experiment with its prompts prefilled here: the same memory rules, far less work."""
    decode = load_experiment("e8").model_copy(update={"rates": [20.0], "scales": resolve_scales()})
    serving = decode.model_copy(update={"semantics": "serving"})
    latency = {}
    for name, experiment in (("decode", decode), ("serving", serving)):
        for key in ("sarathi", "wait"):
            records = tmp_path / name / f"{key}.parquet"
            making.sweep(experiment, key, "tiny", records)
            (run,) = iter_runs(records)
            latency[name, key] = run_metrics(run.columns).mean_latency
    setting = resolve(decode)
    assert setting.semantics == resolve(serving).semantics._replace(remote_prefill=True)
    assert setting.context(20.0).semantics == "decode"
    alone = 20 * 0.0098  # s: 20 iterations of a lone decode on this device take 9.81 ms each
    assert alone < latency["decode", "sarathi"] < 1.3 * alone
    assert latency["decode", "wait"] < latency["decode", "sarathi"] + 0.025  # its gate holds a request 20 ms at most
    assert latency["serving", "sarathi"] > 2 * latency["decode", "sarathi"]


def resolve_scales():
    sizes = {"requests": 60, "replications": 1, "tuning_requests": 40, "audit_requests": 40}
    return parse(Experiment, LONG | {"scales": {"tiny": sizes}}, "x.yaml").scales
