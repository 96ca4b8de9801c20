"""What holds for every policy: it sees no unrevealed length, keeps nobody waiting for ever, and compiles once."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from policy_cases import Asked, Request, decoding, law

from fluidwait.device.timing import linear
from fluidwait.engines import core
from fluidwait.engines.simulator import simulate
from fluidwait.policies import contract, load_policy
from fluidwait.policies.contract import Context, View
from fluidwait.workload import LengthLaw, Requests

LONGEST = 120
LAW = LengthLaw(np.array([30.0] * 3), np.array([10.0, 40.0, LONGEST]), np.array([0.5, 0.3, 0.2]))
MODEL = linear(0.01, 1e-5)
SPECS = {
    "sarathi": {"token_budget": 60, "max_requests": 12},
    "vllm_v0": {"max_requests": 12, "token_cap": 200},
    "vllm_v1": {"token_budget": 60, "max_requests": 12},
    "fluid_budget": {"batch_tokens": 60, "max_requests": 12},
    "fluid_lookahead": {"max_requests": 12},
    "orca": {"max_requests": 12, "max_model_len": 192},
    "wait": {"thresholds": [3], "max_wait": 0.2},
    "nested_wait": {"boundaries": [10, 40, LONGEST], "thresholds": [3, 2, 1], "max_wait": 0.2},
    "wait_chunked": {"in_service": 12, "chunk": 16, "boundaries": [10, 40, LONGEST], "max_wait": 0.2},
}
WAITING = ["wait", "nested_wait", "wait_chunked"]


def prepared(name, **changed):
    policy = load_policy({"policy": name, **SPECS[name], **changed})
    lengths = law([LONGEST]) if name == "wait" else LAW  # WAIT counts the stages of a type, up to its output
    return policy, policy.prepare(Context(lengths, 10.0, MODEL, (0.01, 1e-5), 10_000, True))


def workload(seed, n=80, rate=25.0):
    g = np.random.default_rng(seed)
    arrival = np.cumsum(g.exponential(1 / rate, n))
    prompt, output, kind = g.integers(1, 60, n), g.integers(1, LONGEST // 2, n), np.zeros(n, dtype=np.int64)
    return Requests(arrival, prompt, output, kind, max_output=np.full(n, 2 * LONGEST))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("recompute", [True, False])
def test_decisions_do_not_anticipate(name, recompute):
    """Lengths that are not revealed by time t may change: everything up to t stays the same, to the last bit."""
    policy, knobs = prepared(name)
    semantics = core.serving(28, 16, 0.0)._replace(recompute=recompute)
    changed_later = 0
    for seed in range(6):
        some = workload(seed)
        base = simulate(some, policy, knobs, MODEL, semantics, log=True)
        ends = base.log[:, 0] + base.log[:, 1]
        t = ends[len(ends) // 3]
        g = np.random.default_rng(100 + seed)
        output = some.output.copy()
        unfinished = base.completion > t
        output[unfinished] += g.integers(0, LONGEST // 2, unfinished.sum())  # longer than revealed so far
        unseen = some.arrival > t
        output[unseen] = g.permutation(g.integers(1, LONGEST, unseen.sum()))
        other = simulate(some._replace(output=output), policy, knobs, MODEL, semantics, log=True)
        until = np.count_nonzero(ends <= t)
        assert other.log[:until].tobytes() == base.log[:until].tobytes()
        for ours, theirs in ((base.completion, other.completion), (base.first_token, other.first_token)):
            if recompute or ours is base.completion:  # a restart takes the first token back
                assert np.array_equal(np.where(ours <= t, ours, 0), np.where(theirs <= t, theirs, 0))
        changed_later += not np.array_equal(base.completion, other.completion)
    assert changed_later == 6


def test_the_view_holds_no_output_length():
    """What the client allows is no length, and a prediction is there only where somebody made one."""
    said = [name for name in View._fields if "output" in name or "completion" in name or "remaining" in name]
    assert said == ["max_output"]


@pytest.mark.parametrize("name", WAITING)
def test_a_lone_request_is_served_within_max_wait(name):
    """The next request comes far in the future: the lone one is held for max_wait in all, and no more."""
    policy, knobs = prepared(name)
    some = Requests(np.array([1.0, 10_000.0]), np.array([30, 30]), np.array([60, 60]), np.zeros(2, dtype=np.int64))
    result = simulate(some, policy, knobs, linear(0.01, 0.0), core.serving(100))
    prefill = 2 if name == "wait_chunked" else 1  # chunks of 16
    assert result.first_token[0] - 1.0 <= 0.2 + 0.01 * prefill + 1e-9
    assert result.completion[0] - 1.0 == pytest.approx(0.2 + 0.01 * (prefill + 59))


@pytest.mark.parametrize("name", WAITING)
def test_nobody_waits_for_ever(name):
    """A crowd, then silence: all of the crowd leaves long before the next arrival, without draining."""
    policy, knobs = prepared(name)
    for seed in range(5):
        some = workload(seed, n=41)
        some.arrival[-1] = 1e6
        result = simulate(some, policy, knobs, MODEL, core.serving(60), check=True)
        assert result.completion[:-1].max() < some.arrival[-2] + 120


@pytest.mark.parametrize("name", WAITING)
def test_without_patience_the_end_of_the_arrivals_frees_everybody(name):
    policy, knobs = prepared(name, max_wait=float("inf"))
    some = workload(1, n=23)
    result = simulate(some, policy, knobs, MODEL, core.serving(60), check=True)
    assert np.isfinite(result.completion).all()


@pytest.mark.parametrize("name", SPECS)
def test_nothing_to_serve_nothing_planned(name):
    ask = Asked({"policy": name, **SPECS[name]}, law([LONGEST]) if name == "wait" else LAW)
    assert ask() == ([], [], float("inf"))
    assert ask(draining=True) == ([], [], float("inf"))


@pytest.mark.parametrize("name", SPECS)
def test_asking_twice_gives_the_same_plan(name):
    """An engine may ask twice at one epoch. A plan without tokens must leave no trace in the policy's memory."""
    ask = Asked({"policy": name, **SPECS[name]}, law([LONGEST]) if name == "wait" else LAW)
    waiting, residents = [Request(20)] * 2, [decoding(12)]
    blocked = ask(waiting, residents, free=0)
    if not any(blocked.tokens):
        assert ask(waiting, residents, free=0) == blocked
    plan = Asked({"policy": name, **SPECS[name]}, law([LONGEST]) if name == "wait" else LAW)(waiting, residents)
    if not any(blocked.tokens):
        assert ask(waiting, residents) == plan


# --- the tools of the contract ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 0.31, 1.0, 30 / 29, 2.5, 7.9])
def test_even_quota(mean):
    terms = [contract.even_quota(t, mean) for t in range(1000)]
    assert np.cumsum(terms).tolist() == [int(np.floor((t + 1) * mean)) for t in range(1000)]
    assert set(terms) <= {int(np.floor(mean)), int(np.ceil(mean))}


def test_blocks():
    assert [contract.blocks_for(tokens, 16) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]


# --- compiled once per machine ----------------------------------------------------------------------------------------

SECOND_PROCESS = """
import sys
import numpy as np
from fluidwait.engines import core, simulator
from fluidwait.policies import load_policy
from fluidwait.device.timing import linear
from fluidwait.workload import Requests

policy = load_policy({"policy": sys.argv[1]})
ones = np.ones(2, dtype=np.int64)
some = Requests(np.zeros(2), ones, ones, ones * 0)
simulator.simulate(some, policy, policy.prepare(None), linear(1, 0), core.serving(10))
stats = simulator.compiled(policy.module).stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""

OWN_POLICY = """
from pydantic import Field
from fluidwait.policies.contract import PolicySettings, jit


class Settings(PolicySettings):
    most: int = Field(3, gt=0)


@jit
def plan(view, knobs, memory, out):
    out.tokens[: len(view.resident)] = 1
    admitted = min(len(view.waiting), knobs.most - len(view.resident))
    for i in range(admitted):
        out.admit[i] = i
        out.chunk[i] = view.goal[view.waiting[i]]
    return admitted, float("inf")
"""


def hits_and_misses(policy: str, cache) -> list[int]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SECOND_PROCESS, policy]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_second_process_does_not_compile(tmp_path):
    """Also with a policy from a file."""
    own = tmp_path / "own.py"
    own.write_text(OWN_POLICY)
    assert hits_and_misses(str(own), tmp_path / "cache") == [0, 1]
    assert hits_and_misses(str(own), tmp_path / "cache") == [1, 0]


def test_a_changed_policy_is_compiled_anew(tmp_path):
    """The compiled function's name, under which it is cached, has a fingerprint of the source."""
    own = tmp_path / "own_changed.py"
    own.write_text(OWN_POLICY)
    module = load_policy({"policy": str(own)}).module
    before = core.specialise(decide_template, module, [core]).py_func.__name__
    assert core.specialise(decide_template, module, [core]).py_func.__name__ == before
    own.write_text(OWN_POLICY.replace("3", "4"))
    assert core.specialise(decide_template, module, [core]).py_func.__name__ != before


def decide_template(state):
    return decide(state)  # noqa: F821
