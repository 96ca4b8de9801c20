"""When a request counts as come, and what a step leaves to the engine's other threads: nothing."""

from __future__ import annotations

import sys
import threading
import time

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

from fake_engine import FakeEngine, make_request, make_scheduler  # noqa: E402

from fluidwait.engines.v1.columns import ARRIVAL  # noqa: E402
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": 32, "boundaries": [20], "chunk": 32, "max_wait": 60.0, "gate": False},
}
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [32], "boundaries": [20], "max_wait": 0.0}}


def engine_of(options, entry) -> FakeEngine:
    return FakeEngine(make_scheduler(options, WaitScheduler, fluidwait=entry, async_scheduling=False), 1)


def came(engine: FakeEngine, name: str) -> float:
    table = engine.scheduler.gate.book.table
    return float(table.times[ARRIVAL, table.slot_of[name]])


def test_a_request_counts_from_when_it_came_not_from_when_the_batch_before_ended(engine_options):
    engine = engine_of(engine_options, CHUNKED)
    engine.add(make_request("first", 20, 20))
    engine.step()
    planned, sent = time.monotonic(), time.time()
    time.sleep(0.05)  # a batch that takes its time
    engine.add(make_request("second", 20, 20, arrival=sent + 0.01))
    assert came(engine, "second") == pytest.approx(planned + 0.01, abs=0.005)


@pytest.mark.parametrize("wrong_by", [-3600.0, 3600.0])
def test_the_clock_of_another_host_is_believed_as_far_as_it_can_be_true(engine_options, wrong_by):
    engine = engine_of(engine_options, CHUNKED)
    engine.add(make_request("first", 20, 20))
    before = time.monotonic()
    engine.step()
    time.sleep(0.02)
    engine.add(make_request("second", 20, 20, arrival=time.time() + wrong_by))
    assert before <= came(engine, "second") <= time.monotonic()


@pytest.mark.parametrize("entry", [CHUNKED, NESTED], ids=["wait_chunked", "nested_wait"])
def test_a_step_keeps_the_lock_of_python(engine_options, entry):
    """Else the threads that send the last tokens run first, and the next batch starts later."""
    engine, turns, ended = engine_of(engine_options, entry), [0], []

    def other_thread():
        while not ended:
            turns[0] += 1
            time.sleep(0)

    lost, plain = [], engine.scheduler.schedule

    def schedule():
        before = turns[0]
        output = plain()
        lost.append(turns[0] - before)
        return output

    engine.scheduler.schedule = schedule
    usual, thread = sys.getswitchinterval(), threading.Thread(target=other_thread)
    sys.setswitchinterval(1000)  # s: another thread runs only when this one lets it
    try:
        thread.start()
        for i in range(200):  # one comes and about one ends per step
            engine.add(make_request(f"r{i}", 20, 1 + i % 20))
            engine.step()
    finally:
        ended.append(True)
        sys.setswitchinterval(usual)
        thread.join()
    assert len(lost) == 200 and turns[0] > 0
    assert sum(count > 0 for count in lost) <= 4  # the status file is written about once a second
