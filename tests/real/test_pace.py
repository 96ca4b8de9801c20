"""How fast the machine is: the meter beside the engine, and the clock that goes with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.base.errors import FluidwaitError
from fluidwait.real import pace as paces
from fluidwait.real.pace import Clock, Meter, Pace

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are bound to cores on Linux only")
SAMPLES = st.lists(st.floats(1e-3, 3e-3), min_size=1, max_size=200)


def samples(seconds, every: float = 0.05, start: float = 0.0) -> np.ndarray:
    return np.column_stack([start + every * np.arange(len(seconds)), seconds])


def test_the_pace_is_the_mean_of_the_samples_around_over_the_reference():
    slow_from_5_on = samples([1e-3] * 100 + [2e-3] * 100)
    pace = Pace(slow_from_5_on, reference=1e-3)
    begin = np.array([2.0, 7.0, 4.99])
    assert pace.during(begin, begin + 0.01) == pytest.approx([1.0, 2.0, 1.5], rel=0.05)
    assert pace.during(0.0, 9.95) == pytest.approx(1.5)
    assert Pace(slow_from_5_on).during(0.0, 9.95) == pytest.approx(1.0)  # its own reference
    assert pace.during(60.0, 61.0) == pytest.approx(1.5)  # no samples there: the average


def test_without_a_meter_the_machine_is_always_the_same():
    pace, moments = Pace([]), np.array([0.0, 1.5, 700.0])
    assert pace.during(moments, moments + 1).tolist() == [1, 1, 1]
    clock = Clock(pace)
    np.testing.assert_allclose(clock.even(moments), moments)
    np.testing.assert_allclose(clock.moments(moments), moments)


def test_one_disturbed_sample_is_not_the_pace():
    seconds = np.full(100, 1e-3)
    seconds[50] = 1.0
    assert Pace(samples(seconds), reference=1e-3).during(0.0, 5.0) == pytest.approx(1.02)


@given(SAMPLES, st.lists(st.floats(0, 30), min_size=1, max_size=20))
def test_a_clock_goes_forward_and_back(seconds, moments):
    clock, moments = Clock(Pace(samples(seconds), reference=1.5e-3)), np.sort(moments)
    even = clock.even(moments)
    assert np.all(np.diff(even) >= 0)
    np.testing.assert_allclose(clock.moments(even), moments, rtol=1e-9, atol=1e-7)
    gone, shown = np.diff(moments), np.diff(even)  # no second is shorter or longer than the samples say
    assert np.all(shown <= gone * 1.5e-3 / min(seconds) + 1e-7) and np.all(shown >= gone * 1.5e-3 / max(seconds) - 1e-7)


@given(st.floats(0.5, 3))
def test_on_a_steady_machine_the_clock_is_a_factor(pace):
    clock = Clock(Pace(samples(np.full(100, pace * 1e-3)), reference=1e-3))
    moments = np.array([0.0, 1.0, 4.0, 50.0])
    np.testing.assert_allclose(clock.even(moments), moments / pace, rtol=1e-9)


@LINUX
def test_the_meter_takes_samples_until_it_is_closed():
    core = min(os.sched_getaffinity(0))
    meter = Meter(core)
    try:
        meter.take()
        time.sleep(12 * paces.PERIOD)
        taken = meter.take()
    finally:
        meter.close()
    assert 1 < len(taken) <= 12 and np.all(np.diff(taken[:, 0]) >= paces.PERIOD) and np.all(taken[:, 1] > 0)
    assert meter._process.returncode == 0


@LINUX
def test_a_meter_that_is_gone_is_one_clear_line():
    meter = Meter(min(os.sched_getaffinity(0)))
    meter._process.kill()
    meter._process.wait()
    with pytest.raises(FluidwaitError, match="has ended; run again to go on"):
        meter.take()


@LINUX
def test_the_meter_stands_on_the_core_that_the_worker_is_bound_to():
    pytest.importorskip("psutil", reason="psutil is not installed, it comes with vLLM (./run.sh setup-vllm)")
    cores = sorted(os.sched_getaffinity(0))
    assert paces.worker_core() is None
    bound = f"import os, sys; os.sched_setaffinity(0, {{{cores[-1]}}}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", bound], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        # on a machine with one core nothing is bound to fewer than all, and there is no meter
        assert paces.worker_core() == (cores[-1] if len(cores) > 1 else None)
        child.stdin.close()
