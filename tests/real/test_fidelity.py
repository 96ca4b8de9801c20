"""The simulator of a bundle, on the recording that comes with the project: how it is told the machine's speed."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from fluidwait.real import fidelity
from fluidwait.real.bundle import Bundle, committed, read_bundle
from fluidwait.real.pace import Clock, Pace
from fluidwait.real.target import STOCK


@pytest.fixture(scope="module")
def bundle():
    return read_bundle(committed("cpu")[0])


def test_on_a_machine_k_times_as_slow_with_arrivals_k_times_as_far_apart_all_takes_k_times_as_long(bundle):
    simulator, run = fidelity.Simulator(bundle), next(bundle.runs())
    names = ("arrival", "prompt_tokens", "output_tokens", "kind")
    requests = fidelity.Requests(*(run.columns[name] for name in names))
    where = (run.parameters["variant"], STOCK, run.parameters["rate"])
    once = simulator.run(requests, *where)
    slower = simulator.run(requests._replace(arrival=4 * requests.arrival), *where, speed=4.0)
    np.testing.assert_allclose(slower.completion, 4 * once.completion, rtol=1e-12)


def test_the_meter_says_how_fast_the_machine_was_and_the_run_itself_does_not(bundle, monkeypatch):
    """A run in which the meter saw twice the pace is simulated so; one whose batches took twice as long is not."""
    slower, longer, iter_runs, paces = 5, 8, fidelity.iter_runs, type(bundle).paces

    def twice_the_pace(self):
        found = paces(self)
        name = list(self.runs())[slower].run_id
        samples = np.column_stack([found[name].time, 2 * np.diff(found[name]._sums)])
        return found | {name: Pace(samples, found[name].reference)}

    def twice_as_long(*arguments):
        for i, run in enumerate(iter_runs(*arguments)):
            duration = run.columns["duration"] * (2.0 if i == longer else 1.0)
            yield run._replace(columns=run.columns | {"duration": duration})

    before = fidelity.replay(bundle)
    monkeypatch.setattr(type(bundle), "paces", twice_the_pace)
    monkeypatch.setattr(fidelity, "iter_runs", twice_as_long)
    after = fidelity.replay(bundle)
    latency = [run.simulated.completion - run.requests.arrival for run in (before[slower], after[slower])]
    assert latency[1].mean() > 1.9 * latency[0].mean()
    assert after[slower].leftover == pytest.approx(before[slower].leftover / 2)
    assert after[longer].leftover == pytest.approx(2 * before[longer].leftover, rel=0.1)
    assert after[longer].adjusted.completion[-1] > before[longer].adjusted.completion[-1]
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        np.testing.assert_array_equal(new.unpaced.completion, old.unpaced.completion)
        if i != slower:
            np.testing.assert_array_equal(new.simulated.completion, old.simulated.completion)


def test_a_steady_pace_is_a_slower_machine(bundle):
    """A clock that goes at half the speed all the time, and iterations that take twice as long: the same run."""
    simulator, run = fidelity.Simulator(bundle), next(bundle.runs())
    requests = fidelity.Requests(*(run.columns[n] for n in ("arrival", "prompt_tokens", "output_tokens", "kind")))
    where = (run.parameters["variant"], STOCK, run.parameters["rate"])
    clock = Clock(Pace(np.column_stack([0.05 * np.arange(100), np.full(100, 2e-3)]), reference=1e-3))
    steady = simulator.run(requests, *where, speed=2.0)
    np.testing.assert_allclose(
        fidelity.paced(simulator, clock, requests, where).completion, steady.completion, rtol=1e-9
    )


def test_without_a_meter_the_pace_is_always_one(bundle, tmp_path):
    """As on a GPU: a bundle without samples is simulated as on a machine that is as fast as in the calibration."""
    for name in (*bundle.about.files, "bundle.json"):
        shutil.copy(bundle.path(name), tmp_path)
    pl.read_parquet(bundle.path("pace.parquet")).clear().write_parquet(tmp_path / "pace.parquet")
    for run in fidelity.replay(Bundle(tmp_path, bundle.about.model_copy(update={"pace": None})))[:3]:
        np.testing.assert_allclose(run.simulated.completion, run.unpaced.completion, rtol=1e-12)
        assert run.leftover == pytest.approx(run.speed)
