"""The simulator of a bundle, on the recording that comes with the project: how it is told the machine's speed."""

from __future__ import annotations

import numpy as np
import pytest

from fluidwait.experiments.real import tables
from fluidwait.experiments.real.bundle import committed, read_bundle
from fluidwait.experiments.real.target import STOCK


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(committed("cpu")[0])


def test_on_a_machine_k_times_as_slow_with_arrivals_k_times_as_far_apart_all_takes_k_times_as_long(bundle):
    simulator, run = tables.Simulator(bundle), next(bundle.runs())
    names = ("arrival", "prompt_tokens", "output_tokens", "kind")
    requests = tables.Requests(*(run.columns[name] for name in names))
    where = (run.parameters["variant"], STOCK, run.parameters["rate"])
    once = simulator.run(requests, *where)
    slower = simulator.run(requests._replace(arrival=4 * requests.arrival), *where, speed=4.0)
    np.testing.assert_allclose(slower.completion, 4 * once.completion, rtol=1e-12)


def test_neighbours_say_how_fast_the_machine_was_and_the_run_itself_does_not(bundle, monkeypatch):
    """A run whose batches took twice as long: its own adjustment follows, what its neighbours say does not."""
    changed, iter_runs = 5, tables.iter_runs

    def slower(*arguments):
        for i, run in enumerate(iter_runs(*arguments)):
            duration = run.columns["duration"] * (2.0 if i == changed else 1.0)
            yield run._replace(columns=run.columns | {"duration": duration})

    before = tables.replay(bundle)
    monkeypatch.setattr(tables, "iter_runs", slower)
    after = tables.replay(bundle)
    assert after[changed].speed == pytest.approx(2 * before[changed].speed)
    assert after[changed].adjusted.completion[-1] > before[changed].adjusted.completion[-1]
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_array_equal(new.simulated.completion, old.simulated.completion)
        beside = abs(i - changed) == 1
        assert np.array_equal(new.neighbours.completion, old.neighbours.completion) == (not beside)
        if i != changed:
            assert new.speed == old.speed
