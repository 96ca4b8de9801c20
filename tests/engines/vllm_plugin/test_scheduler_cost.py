"""What the plug-in does in a step in which everybody decodes does not grow with the number of requests.

What it takes is measured by ``benchmarks/vllm_scheduler_overhead.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

from fake_engine import FakeEngine, make_request, make_scheduler  # noqa: E402
from loose_plans import CHUNKED, LIMITS, NESTED  # noqa: E402

from fluidwait.engines import vllm as plugin
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

FOLDER = f"{Path(plugin.__file__).parent}/"


def lines_of(engine: FakeEngine) -> int:
    """Lines of the plug-in's Python that the next step carries out."""
    carried_out, before = 0, sys.gettrace()

    def trace(frame, event, argument):
        nonlocal carried_out
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        carried_out += event == "line"
        return trace

    sys.settrace(trace)
    try:
        engine.step()
    finally:
        sys.settrace(before)
    return carried_out


@pytest.mark.parametrize(
    "entry",
    ["auto", LIMITS, CHUNKED, NESTED],
    ids=["auto, still learning", "auto, with a plan", "wait_chunked", "nested"],
)
def test_a_step_in_which_all_decode_takes_as_many_lines_for_many_as_for_few(engine_options, entry):
    def least(running: int) -> int:
        chosen = entry | {"settings": entry["settings"] | {"in_service": running}} if entry is CHUNKED else entry
        scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait=chosen, max_num_seqs=running)
        engine = FakeEngine(scheduler)
        for i in range(running):
            engine.add(make_request(f"r{i}", 10, 100))
        for _ in range(5):
            engine.step()
        lines = [lines_of(engine) for _ in range(5)]  # once a second the status is written, too
        assert len(engine.batches[-1]) == running
        return min(lines)

    assert 0 < least(8) == least(64)
