"""The replay of the published runs: laws of its parts, and agreement with the simulator where both model the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.engines.simulator import simulate
from fluidwait.experiments import replay
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.experiments.tables import reference
from fluidwait.policies import load_policy
from fluidwait.workload import Requests


@pytest.fixture(scope="module")
def setting():
    return resolve(load_experiment("e1"))


@pytest.fixture(scope="module")
def seconds(setting):
    return reference.predictor(setting, project_root() / reference.MEDIANS)


# --- arrivals -------------------------------------------------------------------------------------------------------


def test_arrivals_are_one_stream_rescaled():
    arrival = replay.arrivals(10.0, 500)
    assert np.array_equal(replay.arrivals(10.0, 200), arrival[:200])
    assert np.allclose(replay.arrivals(20.0, 500), arrival / 2)


def test_gaps_are_exponential_and_not_truncated():
    gaps = np.diff(replay.arrivals(1.0, 20_000), prepend=0.0)
    assert gaps.mean() == pytest.approx(1.0, abs=0.03)
    assert (gaps > 3.0).mean() == pytest.approx(np.exp(-3.0), abs=0.005)


# --- iteration times ------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8), st.integers(1, 4))
def test_forest_stays_within_its_data_and_keeps_a_constant(values, step):
    x = step * np.arange(len(values))
    mean = replay.forest_mean(x, values)
    assert np.all(mean >= min(values) - 1e-12) and np.all(mean <= max(values) + 1e-12)
    assert np.allclose(replay.forest_mean(x, np.full(len(x), 3.0)), 3.0)


def test_forest_is_the_mean_over_bootstrap_samples():
    x, y = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 24.0]), np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    rng = np.random.default_rng(0)
    total = np.zeros(len(x))
    for _ in range(20_000):
        sample = np.unique(rng.integers(len(x), size=len(x)))
        halves = (x[sample][1:] + x[sample][:-1]) / 2  # where a tree splits
        total += y[sample][np.searchsorted(halves, x)]
    assert replay.forest_mean(x, y) == pytest.approx(total / 20_000, abs=0.06)


def test_prefills_of_a_batch_count_as_one_chunk(seconds):
    # 300 and 400 tokens are as much attention as 500: what cached tokens add is then the same
    added = seconds([(300, 64), (400, 0)], 0) - seconds([(300, 0), (400, 0)], 0)
    assert added == pytest.approx(seconds([(500, 64)], 0) - seconds([(500, 0)], 0))
    assert added == pytest.approx(seconds([(300, 0), (400, 64)], 0) - seconds([(300, 0), (400, 0)], 0))


def test_times_are_looked_up_in_steps(seconds):
    assert seconds([(250, 1)], 6) == seconds([(250, 64)], 6)  # cached tokens
    assert seconds([], 9) - seconds([], 10) == pytest.approx(32e-3 * (0.075 - 0.076))  # tokens of a batch


def test_medians_without_a_number_of_decodes(setting, tmp_path):
    path = tmp_path / "medians.csv"
    path.write_text("chunk,requests,cached,median\n0,1,576,0.1\n0,3,576,0.2\n80,1,0,0.1\n")
    with pytest.raises(ConfigError, match=r"medians.csv: column 'requests': decodes \(chunk 0\) must count 1, 2, 3"):
        reference.predictor(setting, path)


# --- schedulers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [12.0, 24.0])
def test_sarathi_equals_the_simulator_under_the_same_iteration_times(setting, rate):
    model = setting.time_model._replace(decode_context=0.0)  # the replay knows no contexts of decodes

    def ours(chunks, decodes):
        prefill = sum(q for q, _ in chunks)
        squares, context = sum(q * q for q, _ in chunks), sum(q * k for q, k in chunks)
        return iteration_time(model, BatchSums(prefill + decodes, 0, len(chunks), prefill, squares, context, decodes))

    count = 1000
    ones = np.ones(count, dtype=np.int64)
    requests = Requests(replay.arrivals(rate, count), replay.PROMPT * ones, replay.OUTPUT * ones, 0 * ones)
    policy = load_policy(reference.published_policy("sarathi", rate, replay.PROMPT, replay.OUTPUT))
    run = simulate(requests, policy, policy.prepare(setting.context(rate)), model, setting.semantics)
    replayed = replay.replay(requests.arrival, replay.sarathi(), ours)
    assert np.allclose(replayed, run.completion - requests.arrival, rtol=0, atol=1e-9)


@given(st.integers(5, 60), st.sampled_from([64, 256, 512]), st.floats(5.0, 60.0))
def test_wait_keeps_its_bounds(limit, chunk, rate):
    batches = []

    def seconds(chunks, decodes):
        batches.append((sum(q for q, _ in chunks), max((q for q, _ in chunks), default=0), decodes, len(chunks)))
        return 0.01 + 5e-5 * sum(q for q, _ in chunks)

    latency = replay.replay(replay.arrivals(rate, 60), replay.wait(limit, chunk), seconds)
    prefill, largest, decodes, chunks = np.array(batches).T
    stages = -(-replay.PROMPT // chunk)
    bound = np.ceil(limit * stages / (stages + replay.OUTPUT) * chunk)
    assert prefill.max() <= bound and largest.max() <= chunk
    assert (decodes + chunks).max() <= limit
    assert prefill.sum() == 60 * replay.PROMPT and decodes.sum() == 60 * (replay.OUTPUT - 1)
    assert latency.min() >= (replay.OUTPUT - 1) * 0.01
