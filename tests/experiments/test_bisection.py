"""λ* by bisection on queues whose boundary is known, and on a small experiment."""

from __future__ import annotations

import re
from functools import cache

import making
import numba
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.experiments import bisection, boundaries
from fluidwait.experiments.bisection import CRITICAL, crossing, lambda_star, nearest_winner
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.stats.metrics import mean_interval
from fluidwait.stats.stability import MARGIN, drift, fitted_rate
from queue_laws import batch_server, single_server

N = 4000
SETS, REPLICATIONS = 30, 10
BATCH = 32


@numba.njit
def queue(arrival, work):
    """Completion times of a FIFO queue with the given service times."""
    completion = np.empty_like(arrival)
    free = 0.0
    for i in range(len(arrival)):
        free = max(free, arrival[i]) + work[i]
        completion[i] = free
    return completion


SYSTEMS = {
    "single": lambda arrival, work: single_server(arrival, 1.0),
    "batch": lambda arrival, work: batch_server(arrival, BATCH, float(BATCH)),
    "exponential": queue,
}
"""Servers of one request/s: the boundary is 1."""


def draw(seed, n=N):
    random = np.random.default_rng([n, seed])
    return np.cumsum(random.exponential(1, n)), random.exponential(1, n)


@cache
def stars(system, n=N):
    """λ* of every replication."""
    serve = SYSTEMS[system]
    drawn = (draw(seed, n) for seed in range(SETS * REPLICATIONS))
    return np.array([lambda_star(lambda t, _, w=w: serve(t, w), a, 0.8, 1.2, 0.005) for a, w in drawn])


# --- the estimate --------------------------------------------------------------------------------------------------


def documented():
    """The table of docs/stability.md, in 1/sqrt(N): bias, standard deviation of λ*, share of intervals that cover."""
    page = (project_root() / "docs" / "stability.md").read_text()
    rows = re.findall(r"^\|[^|]+\| (-?[\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    return {system: [float(value) for value in row] for system, row in zip(SYSTEMS, rows, strict=True)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_bias_and_noise_are_those_of_the_page(system):
    errors = (stars(system) - 1) * N**0.5
    bias, deviation, _ = documented()[system]
    assert errors.mean() == pytest.approx(bias, abs=0.006)
    assert errors.std(ddof=1) == pytest.approx(deviation, abs=0.006)


@pytest.mark.parametrize("system", SYSTEMS)
def test_intervals_cover_the_boundary_about_as_often_as_they_say(system):
    intervals = [mean_interval(part) for part in stars(system).reshape(SETS, REPLICATIONS)]
    covered = np.mean([interval.low <= 1 <= interval.high for interval in intervals])
    assert covered == pytest.approx(documented()[system][2], abs=0.006)
    assert covered >= 0.9


def test_the_rule_for_single_runs_would_end_above_the_boundary():
    """What the module says of a bisection at drift 0.75 / sqrt(N), without the step back."""
    found = []
    for seed in range(100):
        arrival, _ = draw(seed, 20_000)
        unit = arrival * fitted_rate(arrival)
        level = MARGIN / 20_000**0.5
        found.append(crossing(lambda r, u=unit: drift(u / r, single_server(u / r, 1.0)), level, 0.8, 1.2, 0.005))
    assert (np.mean(found) - 1) * 20_000**0.5 == pytest.approx(0.6, abs=0.1)


def test_time_unit_and_rate_of_the_arrivals_do_not_matter():
    arrival, _ = draw(0)
    expected = lambda_star(lambda t, _: single_server(t, 1.0), arrival, 0.8, 1.2, 0.005)
    assert lambda_star(lambda t, _: single_server(t, 1.0), arrival * 7, 0.8, 1.2, 0.005) == pytest.approx(expected)
    fast = lambda_star(lambda t, _: single_server(t, 0.01), arrival, 80, 120, 0.5)
    assert fast == pytest.approx(100 * expected, rel=1e-9)


# --- the bisection -------------------------------------------------------------------------------------------------


@given(
    root=st.floats(0.5, 50),
    low=st.floats(0.3, 60),
    width=st.floats(1.01, 3),
    resolution=st.floats(0.01, 0.2),
    level=st.floats(0, 0.5),
)
def test_a_line_is_crossed_exactly_wherever_the_bracket_starts(root, low, width, resolution, level):
    """Within the reach of the widening, that is."""
    found = crossing(lambda rate: rate - root + level, level, low, low * width, resolution)
    within = low * 0.5**bisection.WIDENINGS < root - resolution and root + resolution < low * width
    if within:
        assert found == pytest.approx(root, rel=1e-6)
    assert found is None or found == pytest.approx(root, rel=1e-6)


def test_a_jump_is_found_between_two_steps():
    asked = []

    def jump(rate):
        asked.append(rate)
        return float(rate > 2.34)

    assert 2.3 < crossing(jump, 0.1, 1, 4, 0.1) < 2.4
    assert len(asked) == len(set(asked))
    assert len(asked) <= 7  # both ends and log2(30)


def test_ends_on_the_wrong_side_are_moved():
    line = lambda rate: rate - 10  # noqa: E731
    assert crossing(line, 0, 12, 13, 0.1) == pytest.approx(10)
    assert crossing(line, 0, 5, 6, 0.1) == pytest.approx(10)


@pytest.mark.parametrize("drift_at", [lambda rate: 1.0, lambda rate: -1.0])
def test_no_boundary_is_none(drift_at):
    assert crossing(drift_at, 0.1, 1, 4, 0.1) is None
    arrival, _ = draw(0, 100)
    assert lambda_star(lambda t, _: t, arrival, 0.8, 1.2, 0.1) is None


def test_the_nearest_winner_is_the_lower_of_two_equally_near():
    chosen = {12.0: {"a": 1}, 14.0: {"a": 2}}
    assert [nearest_winner(chosen, rate)["a"] for rate in (1, 12.9, 13, 13.1, 99)] == [1, 1, 1, 2, 2]
    assert nearest_winner({}, 12.0) is None


# --- an experiment -------------------------------------------------------------------------------------------------

SMALL = {
    "id": "small",
    "title": "Small",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d20",
    "rates": [12, 18, 24, 30],
    "boundary": {"resolution": 0.25, "low": 16, "requests": {"tiny": 1000}},
    "scales": {"tiny": {"requests": 200, "replications": 3, "tuning_requests": 60, "audit_requests": 50}},
    "policies": {
        "sarathi": {"use": "sarathi", "label": "Sarathi"},
        "tuned": {"use": "sarathi", "label": "Sarathi, tuned", "grid": {"max_requests": [4, 64]}},
        "wait": {"use": "wait_chunked", "label": "WAIT", "settings": {"chunk": 512}},
    },
}


@pytest.fixture(scope="module")
def small():
    return parse(Experiment, SMALL, "small.yaml")


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "tiny" / "small"
    tuning = folder / "tuning" / "tuned.csv"
    making.tune(small, "tuned", "tiny", tuning)
    metrics, searched = {}, {}
    for key in small.policies:
        chosen = tuning if key == "tuned" else None
        records = folder / "records" / f"{key}.parquet"
        making.sweep(small, key, "tiny", records, chosen)
        metrics[key], searched[key] = folder / "metrics" / f"{key}.csv", folder / "boundary" / f"{key}.csv"
        making.metrics(small, records, metrics[key])
        making.boundary(small, key, "tiny", searched[key], chosen)
    making.stability(small, metrics, folder / "stability.csv", searched)
    making.boundaries([(small, folder / "stability.csv")], folder.parent / "boundaries.csv")
    return folder


def test_a_full_batch_of_sarathi_carries_what_the_fluid_model_says(made):
    """512 tokens a batch, 531 a request: a saturated server completes exactly what full batches carry."""
    row = pl.read_csv(made / "stability.csv").filter(pl.col("policy") == "sarathi").row(0, named=True)
    assert row["lambda_star"] == pytest.approx(row["predicted"], rel=0.02)
    assert row["lambda_star_low"] < row["lambda_star"] < row["lambda_star_high"]
    assert row["grid_lambda_star"] in (18, 24)


def test_stability_has_the_mean_of_the_replications(made, small):
    table = pl.read_csv(made / "stability.csv")
    assert table.columns == list(boundaries.SCHEMA)
    for row in table.iter_rows(named=True):
        stars = pl.read_csv(made / "boundary" / f"{row['policy']}.csv")
        assert stars["replication"].to_list() == [0, 1, 2]
        interval = mean_interval(stars["lambda_star"])
        assert (row["lambda_star"], row["lambda_star_low"], row["lambda_star_high"]) == interval[:3]
        assert (row["replications"], row["resolution"]) == (3, 0.25)


def test_shares_are_of_one_fluid_bound_per_experiment(made, small):
    table = pl.read_csv(made.parent / "boundaries.csv")
    assert table.columns == list(boundaries.SHARES)
    assert table["policy"].to_list() == list(small.policies)
    assert table["workload"].unique().to_list() == ["p512d20"]
    assert table["fluid_bound"].n_unique() == 1
    assert table["fluid_bound"][0] == boundaries.fluid_bound(resolve(small))
    assert np.allclose(table["share"], table["lambda_star"] / table["fluid_bound"])
    assert table["share"].is_between(0.5, 1.1).all()


def test_artifacts_verify_and_come_out_the_same_again(made, small, tmp_path):
    assert verify(made.parent) == []
    again = tmp_path / "again.csv"
    making.boundary(small, "wait", "tiny", again)
    assert again.read_bytes() == (made / "boundary" / "wait.csv").read_bytes()
    sidecar = read_sidecar(again)
    assert (sidecar.config["requests"], sidecar.config["seed"], sidecar.config["low"]) == (1000, 2001, 16.0)
    assert "fluidwait.policies.wait_chunked" in sidecar.code


def test_another_seed_set_is_another_search(small):
    setting = resolve(small)
    plain, other = (bisection.search_identity(setting, "wait", scale) for scale in ("tiny", "tiny-seeds2"))
    assert {name for name in plain if plain[name] != other[name]} == {"seed"}


def test_a_replication_without_a_boundary_leaves_it_empty(made, small, tmp_path):
    searched = tmp_path / "sarathi.csv"
    searched.write_text("replication,lambda_star\n0,24.0\n1,\n2,24.1\n")
    out = tmp_path / "stability.csv"
    making.stability(small, {"sarathi": made / "metrics" / "sarathi.csv"}, out, {"sarathi": searched})
    row = pl.read_csv(out).row(0, named=True)
    assert (row["lambda_star"], row["lambda_star_low"], row["replications"]) == (None, None, 3)


def test_without_a_search_only_the_grid_is_known(made, small, tmp_path):
    plain = small.model_copy(update={"boundary": None})
    searched, out = tmp_path / "sarathi.csv", tmp_path / "stability.csv"
    making.boundary(plain, "sarathi", "tiny", searched)
    assert searched.read_text() == "replication,lambda_star\n"
    making.stability(plain, {"sarathi": made / "metrics" / "sarathi.csv"}, out, {"sarathi": searched})
    row = pl.read_csv(out).row(0, named=True)
    assert row["lambda_star"] is None
    assert row["grid_lambda_star"] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 0}, "x.yaml: boundary.resolution: "),
        ({"low": 5, "high": 4}, "x.yaml: boundary: low must be below high, found 5 and 4"),
        ({"seed": 1}, "x.yaml: boundary: seed must differ from the experiment's seed and tuning_seed"),
        ({"requests": {"tini": 500}}, "scale 'tini' is not defined (did you mean 'tiny'?)"),
        ({"requets": {}}, "unknown key (did you mean 'requests'?)"),
    ],
)
def test_mistakes_are_one_line(change, message):
    wrong = SMALL | {"boundary": SMALL["boundary"] | change}
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        parse(Experiment, wrong, "x.yaml")
    assert "\n" not in str(error.value)


def test_without_a_constant_rate_a_search_is_refused(small, tmp_path):
    workload = tmp_path / "wave.yaml"
    workload.write_text(
        "name: wave\nlengths: {kind: fixed, prompt: 50, output: 20}\n"
        "arrivals: {process: piecewise, segments: [{until: 9, rate: 1}, {until: 20, rate: 2}], repeat: true}\n"
    )
    wave = small.model_copy(update={"workload": str(workload)})
    with pytest.raises(ConfigError, match=r"^experiment small: boundary: arrivals 'piecewise' have no constant rate"):
        making.boundary(wave, "wait", "tiny", tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == [workload]


def test_experiments_that_ship_search_finely():
    """About 0.5 % of the boundary, or finer."""
    searched = {name: load_experiment(name) for name in ("e1", "e2", "e3", "e3_tight", "e5")}
    for experiment in searched.values():
        assert experiment.boundary.resolution <= 0.007 * boundaries.fluid_bound(resolve(experiment))
        assert CRITICAL / experiment.boundary_requests_at("paper") ** 0.5 <= 0.02
