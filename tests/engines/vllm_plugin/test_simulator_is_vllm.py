"""The simulator under vLLM's rules and vLLM's real scheduler: the same run, to the last bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vllm_cases import for_release, random_case  # noqa: E402

from fluidwait.base.errors import ConfigError  # noqa: E402
from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.engines import simulator  # noqa: E402
from fluidwait.engines.core import EngineError  # noqa: E402
from fluidwait.engines.learning import Learned, serve_learning  # noqa: E402
from fluidwait.engines.v1.rules import vllm  # noqa: E402
from fluidwait.engines.v1.run import serve  # noqa: E402
from fluidwait.engines.vllm.load.engine import engine_version  # noqa: E402
from fluidwait.engines.vllm.settings import SchedulerSettings  # noqa: E402
from fluidwait.engines.vllm_clock import run as clock_engine  # noqa: E402
from fluidwait.engines.vllm_clock import simulate_vllm_clock  # noqa: E402
from fluidwait.policies import load_policy  # noqa: E402
from fluidwait.policies.contract import Context  # noqa: E402
from fluidwait.workload import generate, length_law, load_workload  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
CASES, AT_ONCE = 200, 20


def stock(rules):
    """The policy that is vLLM's own scheduler with these limits, and its knobs."""
    policy = load_policy({"policy": "vllm_v1", "token_budget": rules.tokens, "max_requests": rules.requests})
    return policy, policy.prepare(None)


def test_two_prompts_that_evict_each_other_for_ever(monkeypatch):
    """With priorities and asynchronous scheduling vLLM can come to that; both engines end with one line."""
    case = random_case(52411, 2)
    given = {"priority": case.priority, "hashes": case.hashes}
    with pytest.raises(EngineError, match="no end in sight"):
        serve(case.requests, A100, case.rules, **given)
    monkeypatch.setattr(clock_engine, "most_fruitless", lambda requests: 500)
    with pytest.raises(EngineError, match="no end in sight"):
        simulate_vllm_clock(case.requests, *stock(case.rules), A100, case.rules, **given)


@pytest.mark.parametrize("depth", [1, 2], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("first", range(0, CASES, AT_ONCE))
def test_every_request_of_random_runs(first, depth):
    """Memory pressure, every limit, priorities, shared prefixes."""
    for seed in range(first, first + AT_ONCE):
        case = for_release(random_case(seed, depth), engine_version())
        theirs = simulate_vllm_clock(
            case.requests, *stock(case.rules), A100, case.rules, log=True, priority=case.priority, hashes=case.hashes
        )
        rows = np.empty_like(theirs.log)
        given = {"priority": case.priority, "hashes": case.hashes}
        ours = serve(case.requests, A100, case.rules, rows=rows, **given)
        checked = serve(case.requests, A100, case.rules, check=True, **given)
        assert np.array_equal(ours.first_token, theirs.first_token), seed
        assert np.array_equal(ours.completion, theirs.completion), seed
        assert np.array_equal(checked.completion, theirs.completion), seed
        assert np.array_equal(ours.preemptions, theirs.evictions), seed
        assert (ours.iterations, ours.busy, ours.peak_blocks) == (theirs.iterations, theirs.busy, theirs.peak_blocks)
        assert np.array_equal(rows, theirs.log), seed


def test_the_random_runs_put_the_rules_to_the_test():
    """Many preempt, many hit the prefix cache, many are cut by a limit: leaving one of them out would show."""
    preempted = hits = 0
    for seed in range(CASES):
        case = random_case(seed, 2)
        given = {"priority": case.priority, "hashes": case.hashes}
        run = serve(case.requests, A100, case.rules, **given)
        preempted += int(run.preemptions.sum())
        if case.rules.caching:
            without = serve(case.requests, A100, case.rules._replace(caching=False), priority=case.priority)
            hits += not np.array_equal(run.completion, without.completion)
    assert preempted > 1000 and hits > 20


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_plug_in_with_given_knobs(asynchronous):
    """Of the policy that auto mode runs: vLLM's own rule with a batch and a memory that is left free."""
    workload = load_workload("p512d20")
    for blocks, rate, change in ((8448, 20.0, {}), (300, 9.0, {}), (8448, 9.0, {"max_requests": 8})):
        policy = load_policy({"policy": "fluid_budget"} | change)
        law = length_law(workload)
        knobs = policy.prepare(Context(law, rate, A100, (np.nan, np.nan), blocks * 16, True))
        requests = generate(workload, n=400, rate=rate, seed=5)
        rules = vllm(blocks, asynchronous=asynchronous)
        theirs = simulate_vllm_clock(requests, policy, knobs, A100, rules, log=True)
        ours = simulator.simulate(requests, policy, knobs, A100, rules, check=True)
        assert theirs.log[:, 3].max() <= change.get("max_requests", 256)  # in a server that runs more
        assert np.array_equal(ours.completion, theirs.completion)
        assert np.array_equal(ours.first_token, theirs.first_token)
        assert np.array_equal(ours.evictions, theirs.evictions)


def test_a_request_that_fills_the_memory_alone():
    """It can just be served, and one token more is refused by both."""
    rules = vllm(11)
    full = random_case(0, 1).requests._replace(
        arrival=np.zeros(1), prompt=np.array([100]), output=np.array([61]), kind=np.zeros(1, dtype=np.int64)
    )
    theirs = simulate_vllm_clock(full, *stock(rules), A100, rules)
    assert np.array_equal(serve(full, A100, rules).completion, theirs.completion)
    longer = full._replace(output=np.array([62]))
    for run in (simulator.simulate, simulate_vllm_clock):
        with pytest.raises(ConfigError, match=r"request 0: .* 162 tokens, but .*nearest valid value: 161"):
            run(longer, *stock(rules), A100, rules)


def test_nothing_is_left_patched():
    import time

    from fluidwait.engines.vllm import clock, preparation

    before = (clock.time, preparation.ThreadPoolExecutor)
    case = for_release(random_case(3, 2), engine_version())
    simulate_vllm_clock(case.requests, *stock(case.rules), A100, case.rules, hashes=case.hashes)
    assert (clock.time, preparation.ThreadPoolExecutor) == before and before[0] is time


def of_the_plugin(load, asynchronous):
    """Auto mode, which looks twice a second from the tenth request on, so that short runs see several plans."""
    learned = Learned(SchedulerSettings(least=10, refresh=0.5, length_window=50, iteration_window=40))
    rules = vllm(load.blocks, asynchronous=asynchronous, caching=load.hashes is not None)
    # releases before 0.32 have no watermark: the plug-in, which stands in for it, counts free blocks another way
    without = {} if engine_version().startswith("0.32.") else {"watermark": 0.0}
    return load_policy({"policy": "fluid_budget"} | load.settings | without), learned, A100, rules


class Load(NamedTuple):
    workload: str
    rate: float
    blocks: int
    requests: int
    hashes: list | None = None
    settings: dict = {}


LOADS = {
    "one type": Load("p512d20", 22.0, 8448, 500),
    "little memory": Load("p512d1000", 1.6, 300, 40),
    "lmsys": Load("lmsys-chat-1m", 30.0, 700, 400),
    "long prompts": Load("p2000d50", 5.4, 8448, 150),
    "shared prefixes": Load("p512d20", 22.0, 2000, 300, [[100 * (i % 7) + j for j in range(10)] for i in range(300)]),
    "few in service": Load("p512d20", 9.0, 8448, 200, settings={"max_requests": 8}),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", LOADS)
def test_auto_mode_learns_the_same(name, asynchronous):
    """The plug-in's estimates see the same batches and requests at the same times, and give the same limits."""
    load = LOADS[name]
    if load.hashes and not engine_version().startswith("0.32."):
        pytest.skip("releases of vLLM before 0.32 find other blocks of a prefix in their cache")
    requests = generate(load_workload(load.workload), n=load.requests, rate=load.rate, seed=3)
    arguments = of_the_plugin(load, asynchronous)
    given = {"hashes": load.hashes} if load.hashes else {}
    theirs = simulate_vllm_clock(requests, *arguments, log=True, **given)
    policy, learned, times, rules = arguments
    rows = np.empty_like(theirs.log)
    ours = serve_learning(requests, policy, learned, times, rules, rows=rows, check=True, **given)
    assert np.array_equal(ours.first_token, theirs.first_token)
    assert np.array_equal(ours.completion, theirs.completion)
    assert np.array_equal(ours.preemptions, theirs.evictions)
    assert np.array_equal(rows, theirs.log)
    stock = serve(requests, times, rules, **given)
    assert not np.array_equal(stock.completion, ours.completion)  # it learned something
