"""Auto mode against vLLM's own scheduler, both real, on the calibrated A100's clock: never slower, and its gains.

Small versions of what ``benchmarks/vllm_clock.py`` measures. A plan is in force after some 50 finished requests.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

from fake_engine import make_scheduler  # noqa: E402
from virtual_clock import serve, virtual_time  # noqa: E402

from fluidwait.device.hardware import load_hardware
from fluidwait.engines import core, simulator  # noqa: E402
from fluidwait.engines.vllm import WaitScheduler, preparation
from fluidwait.engines.vllm import clock as plugin_clock
from fluidwait.policies import load_policy  # noqa: E402
from fluidwait.workload import generate, load_workload  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
AUTO = {"policy": "auto", "least": 50, "refresh": 1.0}
MEAN, P99 = 0.01, 0.02  # the most that auto mode may be slower


class Case(NamedTuple):
    types: list[tuple[float, int, int]] | str  # (share, prompt, output), or the name of a workload
    rate: float  # requests/s
    blocks: int
    requests: int
    mean: float = MEAN  # most change of the mean latency against vLLM's own scheduler
    p99: float = P99


CASES = {
    "one short type near the boundary": Case("p512d20", 24.0, 8448, 1200, -0.4, -0.3),
    "long prompts": Case([(1.0, 2000, 50)], 5.3, 8448, 400, -0.2, -0.2),
    "long outputs in little memory": Case([(1.0, 150, 250)], 8.8, 500, 300, -0.05, -0.08),
    "outputs of two lengths": Case([(0.7, 200, 20), (0.3, 200, 400)], 18.0, 900, 500),
    "chat": Case("lmsys-chat-1m", 36.0, 8448, 800),
}


def requests_of(case: Case, folder):
    workload = case.types
    if not isinstance(workload, str):
        types = [f"    - {{share: {s}, prompt: {p}, output: {o}}}\n" for s, p, o in workload]
        workload = folder / "mixture.yaml"
        head, tail = "name: mixture\nlengths:\n  kind: mixture\n  types:\n", "arrivals: {process: poisson}\n"
        workload.write_text(head + "".join(types) + tail)
    return generate(load_workload(workload), n=case.requests, rate=case.rate, seed=7)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_auto_mode_is_never_slower_and_keeps_its_gains(engine_options, tmp_path, case):
    some = requests_of(case, tmp_path)
    stock = serve(engine_options, some, A100, blocks=case.blocks)
    auto = serve(engine_options, some, A100, AUTO, blocks=case.blocks)
    assert auto.knobs is not None, "no plan ever came into force"
    assert auto.latency.mean() <= (1 + case.mean) * stock.latency.mean()
    assert auto.p99() <= (1 + case.p99) * stock.p99()
    if case.mean < 0 and stock.preemptions:
        assert auto.preemptions < stock.preemptions / 2


def test_a_run_is_the_same_every_time(engine_options, tmp_path):
    """And asynchronous scheduling too serves everybody, faster than vLLM's own."""
    some = requests_of(Case("p512d20", 24.0, 8448, 600), tmp_path)
    stock = serve(engine_options, some, A100, blocks=8448, depth=2)
    auto = [serve(engine_options, some, A100, AUTO, blocks=8448, depth=2) for _ in range(2)]
    assert auto[0].latency.tobytes() == auto[1].latency.tobytes()
    assert auto[0].latency.mean() < stock.latency.mean()
    assert auto[0].p99() <= (1 + P99) * stock.p99()


def test_the_policy_is_the_same_in_the_simulator_and_in_vllm(engine_options, tmp_path):
    """Every request's times, where memory is ample: the rule is written once for all engines."""
    some = requests_of(Case("p512d20", 22.0, 8448, 500), tmp_path)
    policy = load_policy({"policy": "fluid_budget", "batch_tokens": 384})
    entry = {"policy": "fluid_budget", "settings": {"batch_tokens": 384}}
    theirs = serve(engine_options, some, A100, entry, blocks=8448)
    ours = simulator.simulate(some, policy, theirs.knobs, A100, core.serving(8448))
    assert theirs.knobs.batch_tokens == 384
    assert np.abs(ours.completion - some.arrival - theirs.latency).max() < 1e-9
    assert np.abs(ours.first_token - some.arrival - theirs.first).max() < 1e-9


def test_the_clock_is_put_back(engine_options):
    import concurrent.futures
    import time

    with virtual_time() as clock:
        scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait="auto")
        assert scheduler.gate.preparation.current(clock.monotonic()) is None
        scheduler.shutdown()
        assert plugin_clock.time is clock
    assert plugin_clock.time is time
    assert preparation.ThreadPoolExecutor is concurrent.futures.ThreadPoolExecutor
