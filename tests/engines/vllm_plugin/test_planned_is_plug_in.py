"""Policies that plan by themselves: the simulator under vLLM's rules and the plug-in in vLLM's real scheduler."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from own_policies import SHORTEST, write_policy  # noqa: E402
from vllm_cases import for_release, planned_case  # noqa: E402

from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.engines.core import EngineError  # noqa: E402
from fluidwait.engines.v1.planned import serve_planned  # noqa: E402
from fluidwait.engines.vllm.load.engine import engine_version  # noqa: E402
from fluidwait.engines.vllm_clock import simulate_vllm_clock  # noqa: E402
from fluidwait.policies import load_policy  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
CASES, AT_ONCE = 60, 20


@pytest.mark.parametrize("depth", [1, 2], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("first", range(0, CASES, AT_ONCE))
def test_every_request_of_random_runs(first, depth):
    """Memory pressure, every limit, priorities, shared prefixes, five policies; to the last bit."""
    for seed in range(first, first + AT_ONCE):
        case, policy, knobs = planned_case(seed, depth, A100)
        case = for_release(case, engine_version())
        given = {"priority": case.priority, "hashes": case.hashes}
        theirs = simulate_vllm_clock(case.requests, policy, knobs, A100, case.rules, log=True, **given)
        rows = np.empty_like(theirs.log)
        ours = serve_planned(case.requests, policy, knobs, A100, case.rules, rows=rows, check=True, **given)
        assert np.array_equal(ours.first_token, theirs.first_token), seed
        assert np.array_equal(ours.completion, theirs.completion), seed
        assert np.array_equal(ours.preemptions, theirs.evictions), seed
        assert (ours.iterations, ours.busy, ours.peak_blocks) == (theirs.iterations, theirs.busy, theirs.peak_blocks)
        assert np.array_equal(rows, theirs.log), seed


def test_the_random_runs_put_the_rules_to_the_test():
    """Every policy is preempted, holds everybody back, and hits the prefix cache in some run."""
    preempted, held, hits = set(), set(), set()
    for seed in range(CASES):
        case, policy, knobs = planned_case(seed, 2, A100)
        given = {"priority": case.priority, "hashes": case.hashes}
        run = serve_planned(case.requests, policy, knobs, A100, case.rules, **given)
        preempted |= {policy.name} if run.preemptions.sum() else set()
        if policy.max_wait > 0:
            at_once = policy.with_max_wait(0.0)
            eager = serve_planned(
                case.requests, policy, knobs._replace(max_wait=at_once.max_wait), A100, case.rules, **given
            )
            held |= set() if np.array_equal(run.completion, eager.completion) else {policy.name}
        if case.rules.caching:
            without = serve_planned(case.requests, policy, knobs, A100, case.rules, priority=case.priority)
            hits |= set() if np.array_equal(run.completion, without.completion) else {policy.name}
    assert preempted == hits == {"wait", "nested_wait", "wait_chunked", "sarathi", "vllm_v0"}
    assert held == {"wait", "nested_wait", "wait_chunked"}


def test_a_policy_without_patience_is_told_by_both(monkeypatch):
    """Nobody says in an engine that no more requests will come."""
    monkeypatch.setattr("fluidwait.engines.vllm_clock.run.MOST_EMPTY", 200)  # in Python it takes its time
    case, policy, knobs = planned_case(1, 2, A100)
    few = case.requests._replace(**{name: column[:3] for name, column in case.requests._asdict().items()})
    for_ever = knobs._replace(thresholds=np.array([4]), max_wait=np.inf)
    rules = for_release(case, engine_version()).rules._replace(by_priority=False, caching=False)
    for run in (serve_planned, simulate_vllm_clock):
        with pytest.raises(EngineError, match="requests stranded at t = "):
            run(few, policy, for_ever, A100, rules)


@pytest.mark.parametrize("depth", [1, 2], ids=["synchronous", "asynchronous"])
def test_both_see_what_is_predicted_and_what_clients_allow(tmp_path, depth):
    """A policy that takes the shortest of those that wait, by predictions of every second request."""
    policy = load_policy({"policy": write_policy(tmp_path, SHORTEST, "shortest"), "most": 5})
    knobs, matters = policy.prepare(None), 0
    for seed in range(0, 40, 5):
        case, *_ = planned_case(seed, depth, A100)
        g, output = np.random.default_rng(seed), case.requests.output
        allowed = output + g.integers(0, 300, len(output))
        predicted = np.where(g.random(len(output)) < 0.5, g.integers(1, allowed + 1), 0)
        some = case.requests._replace(max_output=allowed, predicted=predicted)
        given = {"priority": case.priority, "hashes": case.hashes}
        theirs = simulate_vllm_clock(some, policy, knobs, A100, case.rules, **given)
        ours = serve_planned(some, policy, knobs, A100, case.rules, check=True, **given)
        assert np.array_equal(ours.first_token, theirs.first_token), seed
        assert np.array_equal(ours.completion, theirs.completion), seed
        plain = serve_planned(case.requests, policy, knobs, A100, case.rules, **given)
        matters += not np.array_equal(ours.completion, plain.completion)
    assert matters > 3
