"""What docs/reference-e1.md says about the distances to the published latencies, recomputed."""

from __future__ import annotations

import re

import polars as pl
import pytest

from fluidwait.engines.simulator import simulate
from fluidwait.experiments import reference
from fluidwait.experiments.experiment import load_experiment, resolve
from fluidwait.paths import project_root
from fluidwait.policies import load_policy


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pl.DataFrame:
    out = tmp_path_factory.mktemp("reference") / "reference.csv"
    reference.reference(load_experiment("e1"), "paper", out)
    return pl.read_csv(out)


def distances(table: pl.DataFrame, policy: str, column: str, low: float, high: float) -> list[float]:
    part = table.filter((pl.col("policy") == policy) & pl.col("rate").is_between(low, high))
    return part[f"{column}_distance"].to_list()


def test_the_page_shows_the_table_of_the_paper_scale(table):
    page = (project_root() / "docs" / "reference-e1.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| \S+ \| ([\d.]+) \|", page, flags=re.M)
    expected = [
        (f"{row['rate']:.0f}", f"{row['published']:.4f}", f"{row['exact']:.4f}", f"{row['truncated']:.4f}")
        for row in table.iter_rows(named=True)
    ]
    assert shown == expected


def test_statements_about_sarathi(table):
    assert all(-0.10 < d < -0.05 for d in distances(table, "sarathi", "exact", 12, 21))
    assert all(abs(d) < 0.055 for d in distances(table, "sarathi", "truncated", 12, 21))
    assert all(abs(d) < 0.02 for d in distances(table, "sarathi", "rounded", 12, 18))
    assert min(distances(table, "sarathi", "truncated", 22, 24)) > 0.2
    factors = table.filter((pl.col("policy") == "sarathi") & (pl.col("rate") >= 22))["time_factor"]
    assert 0.94 < factors.min() < factors.max() < 0.99


def test_statements_about_wait(table):
    assert all(abs(d) < 0.03 for d in distances(table, "wait", "truncated", 12, 20))
    assert all(abs(d) < 0.015 for d in distances(table, "wait", "truncated", 12, 18))
    factors = table.filter(pl.col("rate") >= 22)["time_factor"]
    assert 0.94 < factors.min() < factors.max() < 0.985


def test_rounding_contexts_helps_sarathi_and_harms_wait(table):
    assert all(0.045 < d < 0.075 for d in distances(table, "wait", "rounded", 12, 18))
    for policy in ("sarathi", "wait"):
        rounded, plain = (distances(table, policy, column, 22, 24) for column in ("rounded", "truncated"))
        assert all(r > p for r, p in zip(rounded, plain, strict=True))


def test_without_its_batch_bound_the_published_wait_is_far_off():
    setting = resolve(load_experiment("e1"))
    requests = setting.requests(5000, 22, 1, 0)
    latency = {}
    for name, change in (("bound", {}), ("free", {"batch_tokens": None})):
        settings = reference.published_policy("wait", 22, 512, 20)
        assert settings["batch_tokens"] == 484
        policy = load_policy(settings | change)
        run = simulate(requests, policy, policy.prepare(setting.context(22)), setting.time_model, setting.semantics)
        latency[name] = (run.completion - requests.arrival).mean()
    assert latency["free"] > 1.3 * latency["bound"]


def test_a_literal_gate_multiplies_latency_at_low_load():
    setting = resolve(load_experiment("e1"))
    requests = setting.requests(2000, 12, 1, 0)
    settings = reference.published_policy("gated", 12, 512, 20)
    latency = {}
    for patience in (0.02, float("inf")):
        policy = load_policy(settings | {"max_wait": patience})
        run = simulate(requests, policy, policy.prepare(setting.context(12)), setting.time_model, setting.semantics)
        latency[patience] = (run.completion - requests.arrival).mean()
    assert latency[float("inf")] > 3 * latency[0.02]
