"""What the plug-in estimates, when it acts on it, what it tells, and what it relies on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

import vllm  # noqa: E402
from fake_engine import FakeEngine, make_request, make_scheduler  # noqa: E402
from prometheus_client import CollectorRegistry, generate_latest  # noqa: E402

from fluidwait.config import ConfigError  # noqa: E402
from fluidwait.engines.vllm import VERSIONS, WaitScheduler, interface, metrics  # noqa: E402
from fluidwait.engines.vllm.estimates import Traffic  # noqa: E402
from fluidwait.engines.vllm.gate import describe  # noqa: E402
from fluidwait.engines.vllm.settings import read_settings  # noqa: E402
from fluidwait.engines.vllm.thresholds import Limits, Thresholds  # noqa: E402

LIMITS = Limits(capacity=100_000, requests=256, tokens=2048, chunked_prefill=True, longest=4096)
BASE, SLOPE, PER_KV = 5e-3, 40e-6, 0.2e-6


def teach(traffic: Traffic, *, rate: float = 10.0, prompt: int = 200, output: int = 50, seconds: float = 60.0, at=0.0):
    """Traffic of known rate and lengths on a device of known speed."""
    random = np.random.default_rng(1)
    for i in range(int(rate * seconds)):
        traffic.arrived(at + i / rate)
        traffic.finished(prompt + int(random.integers(-20, 21)), output + int(random.integers(-5, 6)))
    for _ in range(500):
        tokens, kv = int(random.integers(1, 1000)), int(random.integers(1, 50_000))
        noise = 1 + 0.02 * random.standard_normal()
        traffic.iterated(tokens, kv, (BASE + SLOPE * tokens + PER_KV * kv) * noise)


def automatic(**more) -> Thresholds:
    settings, policy = read_settings({"fluidwait": {"policy": "auto", **more}})
    return Thresholds(policy, settings, LIMITS)


def settled(thresholds: Thresholds, now: float):
    """The plan in force once the background thread is done."""
    thresholds.current(now)
    if thresholds._pending is not None:
        thresholds._pending.exception(timeout=30)
    return thresholds.current(now + thresholds.settings.refresh)


def test_estimates_find_what_was_put_in():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic)
    assert traffic.rate(60.0) == pytest.approx(10.0, rel=0.02)
    law = traffic.law()
    assert law.share.sum() == pytest.approx(1.0)
    assert law.share @ law.prompt == pytest.approx(200, rel=0.01)
    assert law.share @ law.output == pytest.approx(50, rel=0.01)
    times = traffic.time_model()
    assert times.base == pytest.approx(BASE, rel=0.05)
    assert times.compute_slope == pytest.approx(SLOPE, rel=0.05)
    assert times.per_kv == pytest.approx(PER_KV, rel=0.05)


def test_the_rate_forgets():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic, rate=20.0)
    assert traffic.rate(90.0) == pytest.approx(10.0, rel=0.02)  # half of the window was silent
    assert traffic.rate(200.0) == 0.0


def test_one_stalled_iteration_does_not_matter():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic)
    calm = traffic.time_model()
    traffic.iterated(10, 1000, 60.0)  # a compilation, say
    assert traffic.time_model().base == pytest.approx(calm.base, rel=0.01)


def test_first_come_first_served_until_enough_is_known():
    thresholds = automatic(least=100)
    assert thresholds.current(0.0) is None
    assert "100 needed" in thresholds.problem
    teach(thresholds.traffic)
    plan = settled(thresholds, 60.0)
    knobs = plan.knobs
    assert 1 <= knobs.in_service <= LIMITS.requests
    assert knobs.batch_tokens <= 100_000
    assert 0 < thresholds.load(60.0) < 10


def test_thresholds_follow_a_drift_and_nothing_less():
    thresholds = automatic()
    teach(thresholds.traffic)
    first = settled(thresholds, 60.0)
    assert settled(thresholds, 70.0) is first  # nothing has changed
    teach(thresholds.traffic, output=400, at=60.0)
    second = settled(thresholds, 120.0)
    assert second is not first
    assert second.knobs.caps.sum() != first.knobs.caps.sum() or second.knobs.quota[0] < first.knobs.quota[0]


def test_a_failing_estimate_keeps_the_plan_in_force(monkeypatch):
    thresholds = automatic()
    teach(thresholds.traffic)
    first = settled(thresholds, 60.0)
    monkeypatch.setattr(thresholds, "_time_model", lambda: 1 / 0)
    assert settled(thresholds, 80.0) is first
    assert "ZeroDivisionError" in thresholds.problem


def test_what_is_given_is_not_estimated():
    thresholds = automatic(hardware="a100-80g_llama-2-7b", workload="p512d20", rate=20.0)
    plan = thresholds.current(0.0)
    assert plan is not None and plan.law.prompt.tolist() == [512]
    assert 15 < plan.capacity_rate < 40  # about what the simulator sustains on this device


def test_auto_mode_in_the_engine(engine_options):
    """It learns from the requests that it serves first come, first served, and then takes over; nobody is lost."""
    entry = {"policy": "auto", "least": 50, "refresh": 0.01}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry))
    gate, sent, deadline = engine.scheduler.gate, 0, time.monotonic() + 60
    while gate._plan is None or sent < 300:
        assert time.monotonic() < deadline
        while len(engine.scheduler.requests) < 20:
            engine.add(make_request(f"r{sent}", 20 + sent % 30, 5 + sent % 20))
            sent += 1
        engine.step()
    assert gate._counts["steps"] > 0
    engine.drain()
    assert {engine.tokens[f"r{i}"] - (5 + i % 20) for i in range(sent)} == {0}


def test_status_reaches_prometheus(engine_options, tmp_path):
    entry = {"policy": "nested_wait", "settings": {"thresholds": [4, 2], "boundaries": [5, 40], "max_wait": 60.0}}
    scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait=entry)
    engine, gate = FakeEngine(scheduler), scheduler.gate
    for i in range(3):
        engine.add(make_request(f"r{i}", 20, 20))
    for _ in range(5):
        engine.step()
    gate._report(time.monotonic()).result()
    path = metrics.status_path(scheduler.vllm_config, 0)
    status = json.loads(path.read_text())
    assert status["waiting_held"] == 3 and status["held_steps"]["gate"] == 5
    registry, collector = CollectorRegistry(), metrics.Collector()
    collector.files[0] = path
    registry.register(collector)
    text = generate_latest(registry).decode()
    assert 'fluidwait_waiting_held{engine="0"} 3.0' in text
    assert 'fluidwait_held_steps_total{engine="0",reason="gate"} 5.0' in text
    assert 'fluidwait_threshold{engine="0",segment="2"} 2.0' in text
    scheduler.shutdown()
    assert not path.exists()
    assert "fluidwait_waiting_held{" not in generate_latest(registry).decode()


SHARED = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
from fluidwait.engines.vllm.metrics import COUNTERS, REASONS, SharedMetrics

status = {"time": 5.0, "thresholds": [4, 2], "held_steps": dict.fromkeys(REASONS, 3), "fluid_load": 0.5, "active": 1}
metrics = SharedMetrics(1)
metrics.publish(status | dict.fromkeys(COUNTERS, 7))
metrics.publish(status | dict.fromkeys(COUNTERS, 9) | {"fluid_load": None, "active": 0, "thresholds": [6]})
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_status_of_engines_with_several_api_servers(tmp_path):
    """What the engine's process puts into their folder: counts as they are, and nothing that is no longer true."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    for line in (
        'fluidwait_steps_total{engine="1"} 9.0',
        'fluidwait_held_steps_total{engine="1",reason="cap"} 3.0',
        'fluidwait_active{engine="1"} 0.0',
        'fluidwait_fluid_load{engine="1"} NaN',
        'fluidwait_threshold{engine="1",segment="1"} 6.0',
        'fluidwait_threshold{engine="1",segment="2"} NaN',
        'fluidwait_status_time_seconds{engine="1"} 5.0',
    ):
        assert line in lines


def test_log_line(engine_options):
    entry = {"policy": "wait_chunked", "settings": {"in_service": 8, "boundaries": [20], "max_wait": 1.0}}
    gate = make_scheduler(engine_options, WaitScheduler, fluidwait=entry).gate
    gate._report(time.monotonic()).result()
    status = metrics.read_status(gate._status.path)
    assert describe(status, "").startswith("fluidwait: first come, first served, for now")
    status |= {"active": 1, "fluid_load": 0.5, "in_service_limit": 8}
    assert "50% of the fluid bound" in describe(status, "")
    assert "fluid bound" not in describe(status | {"fluid_load": math.nan}, "")


def test_the_interface_is_the_one_we_know(engine_options):
    """Names the release when vLLM drifts away from what the plug-in takes from it."""
    scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait=None)
    assert interface.drifted(scheduler) == [], f"vLLM {vllm.__version__} has drifted (known: {VERSIONS})"


def test_a_drift_is_refused_in_one_line(engine_options, monkeypatch):
    monkeypatch.setitem(interface.METHODS, "schedule", ["no_such_parameter"])
    monkeypatch.setitem(interface.ATTRIBUTES, "no_such_attribute", object)
    with pytest.raises(ConfigError) as told:
        make_scheduler(engine_options, WaitScheduler, fluidwait=None)
    assert vllm.__version__ in str(told.value)
    assert "schedule(no_such_parameter)" in str(told.value) and "no_such_attribute" in str(told.value)


def test_our_names_do_not_hide_vllms():
    """The class overrides exactly the methods that it lists; an accidental override would break the engine quietly."""
    parent = WaitScheduler.__mro__[1]
    ours = {name for name in vars(WaitScheduler) if not name.startswith("_")}
    assert ours == set(interface.METHODS) | {"gate"}
    assert not hasattr(parent, "gate")
    assert all(hasattr(parent, name) for name in interface.METHODS)
