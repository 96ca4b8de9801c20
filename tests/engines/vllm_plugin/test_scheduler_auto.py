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

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.engines.vllm import VERSIONS, WaitScheduler, interface
from fluidwait.engines.vllm import counters as metrics
from fluidwait.engines.vllm.estimates import Traffic  # noqa: E402
from fluidwait.engines.vllm.preparation import Preparation
from fluidwait.engines.vllm.report import describe  # noqa: E402
from fluidwait.engines.vllm.settings import read_settings  # noqa: E402
from fluidwait.policies.contract import EngineSize

SIZE = EngineSize(capacity=100_000, requests=256, tokens=2048, chunked_prefill=True, longest=4096)
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


def learning(entry: dict, size: EngineSize = SIZE) -> Preparation:
    settings, policy = read_settings({"fluidwait": entry})
    return Preparation(policy, settings, size)


def automatic(**more) -> Preparation:
    return learning({"policy": "auto", **more})


def settled(preparation: Preparation, now: float):
    """The plan in force once the background thread is done."""
    preparation.current(now)
    if preparation._pending is not None:
        preparation._pending.exception(timeout=30)
    return preparation.current(now + preparation.settings.refresh)


def test_estimates_find_what_was_put_in():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic)
    assert traffic.rate(60.0) == pytest.approx(10.0, rel=0.02)
    law = traffic.law()
    assert law.share.sum() == pytest.approx(1.0)
    assert law.share @ law.prompt == pytest.approx(200, rel=0.01)
    assert law.share @ law.output == pytest.approx(50, rel=0.01)
    times = traffic.times()[0]
    assert times.per_kv == pytest.approx(PER_KV, rel=0.05)
    for tokens, kv in ((20, 10_000), (60, 30_000), (300, 20_000), (700, 1000), (990, 50_000)):
        assert seconds(times, tokens, kv) == pytest.approx(BASE + SLOPE * tokens + PER_KV * kv, rel=0.05)


def test_those_that_still_run_count_in_the_lengths():
    """Half of all requests have 10 tokens, half 1,000: after 100 of each have started, 60 short ones have ended."""
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    for _ in range(60):
        traffic.finished(100, 10)
    running = np.array([(100, 20)] * 60)  # they have generated more than the short ones ever do
    assert traffic.law().output.tolist() == [10]
    law = traffic.law(running)
    assert law.share[law.output > 10].sum() == pytest.approx(0.5)
    traffic.finished(100, 1000)
    law = traffic.law(running)  # the one that ended stands for the 60 behind it
    assert dict(zip(law.output, law.share, strict=True)) == pytest.approx({10: 60 / 121, 1000: 61 / 121})
    young = np.array([(100, 5)] * 40)  # nothing speaks for longer outputs: the estimate stays
    law = traffic.law(young)
    assert law.share[law.output == 1000].sum() == pytest.approx(1 / 61)


def test_once_the_window_is_full_only_finished_requests_count():
    traffic = Traffic(rate_window=60.0, length_window=10, iteration_window=500)
    for _ in range(10):
        traffic.finished(100, 10)
    assert traffic.law(np.array([(100, 20)])).output.tolist() == [10]


def seconds(times, tokens: int, kv: int) -> float:
    return iteration_time(times, BatchSums(tokens, kv))


def test_the_time_of_a_batch_is_a_stair_not_a_line():
    """Decodes alone take 8 ms whatever their number, 384 tokens 24 ms, 2,048 tokens 120 ms: each is found."""
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    random = np.random.default_rng(1)
    for tokens, took in ((40, 8e-3), (90, 9e-3), (384, 24e-3), (2048, 120e-3)):
        for _ in range(100):
            kv = int(random.integers(1000, 50_000))
            traffic.iterated(tokens, kv, took + PER_KV * kv)
    times = traffic.times()[0]
    for tokens, took in ((40, 8e-3), (90, 9e-3), (384, 24e-3), (2048, 120e-3)):
        assert seconds(times, tokens, 0) == pytest.approx(took, rel=0.05)
    assert np.all(np.diff(times.compute) >= 0)
    assert seconds(times, 4096, 0) > 1.8 * took  # beyond what was seen nothing is free


def test_limited_batches_do_not_make_the_estimate_forget_larger_ones():
    """A scheduler that has come down to 384 tokens sees nothing else: what 2,048 take stays known."""
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic)
    for _ in range(10):
        traffic.iterated(2048, 0, 0.4)
    for _ in range(5000):
        traffic.iterated(384, 20_000, BASE + SLOPE * 384 + PER_KV * 20_000)
    assert seconds(traffic.times()[0], 2048, 0) == pytest.approx(0.4, rel=0.1)


def test_prefills_among_decodes_are_no_outliers():
    """One iteration in five prefills and takes ten times as long as the others: that is what it takes."""
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    for i in range(500):
        tokens, took = (2048, 0.12) if i % 5 == 0 else (20, 0.01)
        traffic.iterated(tokens, 1000, took)
    assert seconds(traffic.times()[0], 2048, 1000) == pytest.approx(0.12, rel=0.05)


def test_the_rate_forgets():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic, rate=20.0)
    assert traffic.rate(90.0) == pytest.approx(10.0, rel=0.02)  # half of the window was silent
    assert traffic.rate(200.0) == 0.0


def test_one_stalled_iteration_does_not_matter():
    traffic = Traffic(rate_window=60.0, length_window=1000, iteration_window=500)
    teach(traffic)
    calm = traffic.times()[0]
    traffic.iterated(10, 1000, 60.0)  # a compilation, say
    assert traffic.times()[0].base == pytest.approx(calm.base, rel=0.01)


def test_first_come_first_served_until_enough_is_known():
    preparation = automatic(least=100)
    assert preparation.current(0.0) is None
    assert "100 needed" in preparation.problem
    teach(preparation.traffic)
    plan = settled(preparation, 60.0)
    knobs = plan.knobs
    assert 256 <= knobs.batch_tokens <= SIZE.tokens and knobs.batch_tokens % 128 == 0
    assert knobs.spare == 0.05 * SIZE.capacity
    assert knobs.max_requests == SIZE.requests
    assert 0 < preparation.load(60.0) < 10


def test_thresholds_follow_a_drift_and_nothing_less():
    preparation = automatic()
    teach(preparation.traffic)
    first = settled(preparation, 60.0)
    assert settled(preparation, 70.0) is first  # nothing has changed
    teach(preparation.traffic, prompt=1500, output=400, at=60.0)
    second = settled(preparation, 120.0)
    assert second is not first
    assert second.knobs.batch_tokens != first.knobs.batch_tokens


def test_thresholds_of_a_policy_with_quotas_follow_too():
    preparation = learning({"policy": "wait_chunked", "settings": {"batch_tokens": "fluid"}})
    teach(preparation.traffic)
    first = settled(preparation, 60.0)
    teach(preparation.traffic, output=400, at=60.0)
    second = settled(preparation, 120.0)
    assert second.knobs.caps.sum() != first.knobs.caps.sum() or second.knobs.quota[0] < first.knobs.quota[0]


def test_the_batch_follows_the_load_at_every_look():
    """Far below the boundary it is small; at a load that only a larger one carries it grows, with no other drift."""
    preparation = automatic()
    teach(preparation.traffic, rate=10.0)
    calm = settled(preparation, 60.0)
    teach(preparation.traffic, rate=200.0, at=60.0)
    loaded = settled(preparation, 120.0)
    assert loaded.capacity_rate < 200.0  # nothing carries it
    assert calm.knobs.batch_tokens < loaded.knobs.batch_tokens <= SIZE.tokens


def test_the_engines_own_limits_are_the_most():
    """Whole prompts must fit the batch, and a user's own limits count below the engine's."""
    few = EngineSize(capacity=100_000, requests=16, tokens=128, chunked_prefill=True, longest=4096)
    assert settled_with(few).knobs[0::2] == (128, 16)
    assert settled_with(SIZE._replace(chunked_prefill=False)).knobs.batch_tokens == SIZE.tokens
    assert settled_with(SIZE, settings={"max_requests": 300, "token_budget": 192}).knobs[0::2] == (192, 256)


def settled_with(size: EngineSize, **more):
    preparation = learning({"policy": "auto", **more}, size)
    teach(preparation.traffic)
    return settled(preparation, 60.0)


def test_a_failing_estimate_keeps_the_plan_in_force(monkeypatch):
    preparation = automatic()
    teach(preparation.traffic)
    first = settled(preparation, 60.0)
    monkeypatch.setattr(preparation, "_times", lambda: 1 / 0)
    assert settled(preparation, 80.0) is first
    assert "ZeroDivisionError" in preparation.problem


def test_what_is_given_is_not_estimated():
    preparation = automatic(hardware="a100-80g_llama-2-7b", workload="p512d20", rate=20.0)
    plan = preparation.current(0.0)
    assert plan is not None and plan.law.prompt.tolist() == [512]
    assert 15 < plan.capacity_rate < 40  # about what the simulator sustains on this device


def test_auto_mode_in_the_engine(engine_options):
    """It learns from the requests that it serves first come, first served, and then takes over; nobody is lost."""
    entry = {"policy": "auto", "least": 50, "refresh": 0.01}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry))
    gate, sent, deadline = engine.scheduler.gate, 0, time.monotonic() + 60
    while gate._prepared is None or sent < 300:
        assert time.monotonic() < deadline
        while len(engine.scheduler.requests) < 20:
            engine.add(make_request(f"r{sent}", 20 + sent % 30, 5 + sent % 20))
            sent += 1
        engine.step()
    assert gate.report.counts["steps"] > 0
    engine.drain()
    assert {engine.tokens[f"r{i}"] - (5 + i % 20) for i in range(sent)} == {0}


def set_in(scheduler) -> tuple:
    """What a plan may change in the engine."""
    return (
        scheduler.scheduler_config.long_prefill_token_threshold,
        scheduler.max_num_scheduled_tokens,
        getattr(scheduler.kv_cache_manager, "watermark_blocks", None),
    )


KNOWN = {"hardware": "a100-80g_llama-2-7b", "workload": "p512d20", "rate": 20.0}
CHUNKED = {"policy": "wait_chunked", "settings": {"in_service": 8, "boundaries": [20], "chunk": 32, "max_wait": 1.0}}


@pytest.mark.parametrize("entry", ["auto", {"policy": "auto", **KNOWN}, CHUNKED], ids=["auto", "known", "wait_chunked"])
def test_without_a_plan_the_engine_is_as_it_was(engine_options, entry):
    """Right after the start, and again when the plan has gone."""
    stock = set_in(make_scheduler(engine_options))
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry))
    scheduler = engine.scheduler
    assert set_in(scheduler) == stock
    engine.add(make_request("first", 800, 3))
    if entry == "auto":
        assert engine.step() == {"first": 800}
        assert set_in(scheduler) == stock
        return
    engine.step()
    if entry is CHUNKED or stock[-1] is not None:  # a vLLM without a watermark keeps nothing between two steps
        assert set_in(scheduler) != stock
    scheduler.gate.preparation.prepared = None
    engine.step()
    assert set_in(scheduler) == stock


def test_auto_mode_sets_two_numbers_and_holds_nobody(engine_options):
    """Batches of the fluid model's tokens, 5 % of the blocks left free by admissions, and vLLM does the rest."""
    scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait={"policy": "auto", **KNOWN})
    engine = FakeEngine(scheduler)
    for i in range(40):
        engine.add(make_request(f"r{i}", 300, 20))
    sizes = [sum(engine.step().values()) for _ in range(4)]
    plan = scheduler.gate.preparation.prepared.knobs
    assert 256 <= plan.batch_tokens < scheduler.max_num_scheduled_tokens
    assert sizes == [plan.batch_tokens] * 4
    if hasattr(scheduler.kv_cache_manager, "watermark_blocks"):
        assert scheduler.kv_cache_manager.watermark_blocks == 50
    engine.drain()
    assert {engine.tokens[f"r{i}"] for i in range(40)} == {20}


@pytest.mark.parametrize("own", [True, False], ids=["vLLM's watermark", "a vLLM without one"])
def test_admissions_leave_blocks_free_whether_vllm_has_a_watermark_or_not(engine_options, own, monkeypatch):
    """99 blocks of 16 to hand out, 20 to be left free: two prompts of 640 tokens fit, but not with that."""
    entry = {"policy": "fluid_budget", "settings": {"batch_tokens": 2000, "watermark": 0.2}}
    scheduler = make_scheduler(engine_options, WaitScheduler, blocks=100, fluidwait=entry)
    if not own:
        scheduler.gate.stock._watermark = None
        monkeypatch.setattr(scheduler.kv_cache_manager, "watermark_blocks", 0, raising=False)
    elif not hasattr(scheduler.kv_cache_manager, "watermark_blocks"):
        pytest.skip("this vLLM has no watermark")
    engine = FakeEngine(scheduler)
    for name in ("first", "second", "third"):
        engine.add(make_request(name, 640, 5))
    served = []
    while scheduler.has_requests():
        served.append(sorted(engine.step()))
    assert ["first", "second"] not in served and ["first"] in served and ["second"] in served
    assert served.index(["first"]) < served.index(["second"]) < served.index(["third"])
    assert engine.tokens == {"first": 5, "second": 5, "third": 5}


def test_no_decode_waits_for_tokens(engine_options):
    """Twelve decode when a plan of fewer tokens comes into force: all of them go on."""
    entry = {"policy": "fluid_budget", "settings": {"batch_tokens": 4}}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry))
    plan, engine.scheduler.gate.preparation.prepared = engine.scheduler.gate.preparation.prepared, None
    for i in range(12):
        engine.add(make_request(f"r{i}", 20, 20))
    engine.step()
    engine.scheduler.gate.preparation.prepared = plan
    engine.add(make_request("late", 20, 20))
    assert engine.step() == {f"r{i}": 1 for i in range(12)}
    engine.drain()
    assert set(engine.tokens.values()) == {20}


def test_status_reaches_prometheus(engine_options, tmp_path):
    entry = {"policy": "nested_wait", "settings": {"thresholds": [4, 2], "boundaries": [5, 40], "max_wait": 60.0}}
    scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait=entry)
    engine, gate = FakeEngine(scheduler), scheduler.gate
    for i in range(3):
        engine.add(make_request(f"r{i}", 20, 20))
    for _ in range(5):
        engine.step()
    gate.report.tell(time.monotonic()).result()
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
from fluidwait.engines.vllm.counters import COUNTERS, REASONS, SharedMetrics

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
    gate.report.tell(time.monotonic()).result()
    status = metrics.read_status(gate.report.status.path)
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
