"""What docs/reference-e1.md says about the distances to the published latencies, recomputed."""

from __future__ import annotations

import re

import making
import numpy as np
import polars as pl
import pytest

from fluidwait.base.paths import project_root
from fluidwait.engines.simulator import simulate
from fluidwait.experiments import replay
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.experiments.tables import reference
from fluidwait.policies import load_policy


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pl.DataFrame:
    out = tmp_path_factory.mktemp("reference") / "reference.csv"
    making.table(load_experiment("e1"), "reference", "paper", out)
    return pl.read_csv(out)


@pytest.fixture(scope="module")
def setting():
    return resolve(load_experiment("e1"))


@pytest.fixture(scope="module")
def seconds(setting):
    return reference.predictor(setting, project_root() / reference.MEDIANS)


def distances(table: pl.DataFrame, policy: str, column: str, low: float, high: float) -> list[float]:
    part = table.filter((pl.col("policy") == policy) & pl.col("rate").is_between(low, high))
    return part[f"{column}_distance"].to_list()


def test_the_page_shows_the_table_of_the_paper_scale(table):
    page = (project_root() / "docs" / "reference-e1.md").read_text(encoding="utf-8")
    number = r"\| ([\d.]+) "
    distance = r"\| ([+-][\d.]+%) "
    shown = re.findall(rf"^\| (\d+) {number}{3 * (number + distance)}{distance}\|$", page, flags=re.M)
    expected = []
    for row in table.iter_rows(named=True):
        ours = [(f"{row[c]:.4f}", f"{row[f'{c}_distance']:+.1%}") for c in ("exact", "stream", "replayed")]
        flat = [text for pair in ours for text in pair]
        expected.append((f"{row['rate']:.0f}", f"{row['published']:.4f}", *flat, f"{row['truncated_distance']:+.1%}"))
    assert shown == expected


def test_the_replay_gives_the_published_latencies(table):
    assert all(abs(d) < 0.007 for d in distances(table, "sarathi", "replayed", 12, 24))
    assert all(abs(d) < 0.016 for d in distances(table, "wait", "replayed", 12, 24))


def test_the_replay_gives_what_it_was_not_made_for(seconds):
    """Latencies of the same record for 10,000 requests, above the stability boundary too."""
    for rate, known, replayed in ((24.0, 4.228, 4.245), (25.0, 11.086, 11.195), (26.0, 18.634, 18.748)):
        latency = reference.replayed_latency("sarathi", rate, seconds, 10_000)
        assert latency == pytest.approx(replayed, abs=6e-4)
        assert latency == pytest.approx(known, rel=0.012)


@pytest.mark.parametrize(("rate", "chosen"), [(12.0, 20), (23.0, 20), (24.0, 30)])
def test_the_replay_chooses_the_published_cap(seconds, rate, chosen):
    arrival = replay.arrivals(rate, 5000)
    latency = {cap: replay.replay(arrival, replay.wait(cap), seconds).mean() for cap in range(20, 55, 5)}
    assert min(latency, key=latency.get) == chosen == reference.in_service(rate)


def test_truncated_gaps_are_not_the_published_arrivals(table):
    assert all(abs(d) < 0.055 for d in distances(table, "sarathi", "truncated", 12, 21))
    for policy in ("sarathi", "wait"):
        assert min(distances(table, policy, "truncated", 22, 24)) > 0.2
    assert 5000 / replay.arrivals(24.0, 5000)[-1] == pytest.approx(24.02, abs=0.005)


def test_statements_about_our_model_on_the_published_arrivals(table):
    assert all(-0.07 < d < -0.04 for d in distances(table, "sarathi", "stream", 12, 23))
    assert all(abs(d) < 0.033 for d in distances(table, "wait", "stream", 12, 23))
    assert distances(table, "wait", "stream", 24, 24) == pytest.approx([0.27], abs=0.005)
    row = table.row(by_predicate=(pl.col("policy") == "sarathi") & (pl.col("rate") == 24), named=True)
    assert row["exact_low"] / row["published"] - 1 == pytest.approx(-0.40, abs=0.005)
    assert row["exact_high"] / row["published"] - 1 == pytest.approx(0.27, abs=0.005)


def test_statements_about_iteration_times(setting, seconds):
    model = setting.time_model
    for decodes in range(18, 26):
        ours = model.decode_launch + model.decode_request * decodes + model.decode_context * 522 * decodes
        measured = seconds([], decodes) - seconds([], 1) + 32e-3 * 0.014
        measured -= forest(setting, decodes) - forest(setting, 1)
        assert 1.08 < measured / ours < 1.16
        assert 0.34e-3 < measured - ours < 0.63e-3
    for tokens, smooth, plain in ((384, 24.1, 23.6), (512, 33.5, 33.4)):
        assert 1e3 * forest(setting, tokens) == pytest.approx(smooth, abs=0.05)
        assert 1e3 * model.compute[tokens] == pytest.approx(plain, abs=0.05)


def forest(setting, tokens: int) -> float:
    profile = setting.hardware.timing.profile
    smooth = replay.forest_mean(profile.tokens, profile.seconds)
    return smooth[np.searchsorted(profile.tokens, -(-tokens // 8) * 8)]


def test_without_its_batch_bound_the_published_wait_is_far_off(setting):
    requests = setting.requests(5000, 22, 1, 0)
    latency = {}
    for name, change in (("bound", {}), ("free", {"batch_tokens": None})):
        settings = reference.published_policy("wait", 22, 512, 20)
        assert settings["batch_tokens"] == 484
        policy = load_policy(settings | change)
        run = simulate(requests, policy, policy.prepare(setting.context(22)), setting.time_model, setting.semantics)
        latency[name] = (run.completion - requests.arrival).mean()
    assert latency["free"] > 1.3 * latency["bound"]


def test_a_literal_gate_multiplies_latency_at_low_load(setting):
    requests = setting.requests(2000, 12, 1, 0)
    settings = reference.published_policy("gated", 12, 512, 20)
    latency = {}
    for patience in (0.02, float("inf")):
        policy = load_policy(settings | {"max_wait": patience})
        run = simulate(requests, policy, policy.prepare(setting.context(12)), setting.time_model, setting.semantics)
        latency[patience] = (run.completion - requests.arrival).mean()
    assert latency[float("inf")] > 3 * latency[0.02]
