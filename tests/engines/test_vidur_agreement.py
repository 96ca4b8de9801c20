"""The simulator and real Vidur 0.0.26 give the same times, request by request.

Vidur's own vLLM, Sarathi and Orca schedulers run unmodified; our policies run inside Vidur as replica schedulers.
Iteration times come from the calibrated A100 model.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from engine_cases import (
    UNLIMITED,
    Case,
    in_vidur,
    only_once,
    prepared,
    random_case,
    requests,
    simulated,
)

from fluidwait.config import ConfigError
from fluidwait.engines import core
from fluidwait.engines.core import EngineError
from fluidwait.engines.simulator import LOG_COLUMNS, simulate
from fluidwait.engines.vidur import NATIVE, VERSION, native_policies, simulate_vidur
from fluidwait.timing import linear

pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")

CONFIGURATIONS = {
    "vllm_v0": 32,
    "sarathi": 32,
    "orca": 32,
    "wait_chunked": 32,
    "vllm_v1": 12,
    "fluid_budget": 24,
    "nested_wait": 9,
    "wait": 9,
}
CAPS = {
    "vllm_v0": ["max_requests", "token_cap"],
    "sarathi": ["max_requests", "token_budget"],
    "orca": ["max_requests"],
    "vllm_v1": ["max_requests", "token_budget"],
    "fluid_budget": ["max_requests", "batch_tokens"],
    "wait_chunked": ["chunk", "max_wait"],
    "nested_wait": ["max_wait"],
    "wait": ["max_wait"],
}
TOLERANCE = 1e-9  # s


@cache
def both(name: str, seed: int):
    """(case, simulator's run, Vidur's run)"""
    case = random_case(name, seed)
    return case, simulated(case), in_vidur(case, native=name in NATIVE)


def assert_same(ours, theirs):
    assert np.abs(ours.first_token - theirs.first_token).max() <= TOLERANCE
    assert np.abs(ours.completion - theirs.completion).max() <= TOLERANCE
    assert ours.evictions.tolist() == theirs.evictions.tolist()
    assert ours.iterations == theirs.iterations
    assert ours.busy == pytest.approx(theirs.busy, abs=TOLERANCE)


@pytest.mark.parametrize(("name", "seed"), [(name, s) for name, count in CONFIGURATIONS.items() for s in range(count)])
def test_same_times(name, seed):
    _, ours, theirs = both(name, seed)
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_stress_memory_and_caps(name):
    """The agreement above is worth something only if memory ran out and every cap changed some outcome."""
    cases = [both(name, seed) for seed in range(CONFIGURATIONS[name])]
    full = sum(ours.peak_blocks >= 0.97 * case.semantics.blocks for case, ours, _ in cases)
    evicting = sum(ours.evictions.sum() > 0 for _, ours, _ in cases)
    enough = len(cases) // 4
    if name == "orca":  # it reserves whole sequences and never evicts
        assert evicting == 0
    else:
        assert full >= enough
        assert evicting >= enough
    for cap in CAPS[name]:
        assert sum(binds(case, ours, cap) for case, ours, _ in cases) >= min(enough, 3), f"{cap} never binds"
    assert any(np.any(np.diff(case.requests.arrival) == 0) for case, _, _ in cases)
    assert any(np.any(case.requests.output == 1) for case, _, _ in cases)
    if name not in NATIVE:
        lost = [ours for case, ours, _ in cases if not case.semantics.recompute]
        assert sum(ours.evictions.sum() for ours in lost) > 0, "no eviction loses progress"


def binds(case: Case, ours, cap: str) -> bool:
    """True when the run would have been another without the cap."""
    loose = float(UNLIMITED) if cap == "max_wait" else UNLIMITED
    return case.spec[cap] != loose and not np.array_equal(simulated(case, **{cap: loose}).completion, ours.completion)


def test_orca_runs_out_of_reserved_memory():
    """Orca's memory limit: fewer in service than the request cap allows, and more memory changes the outcome."""
    limited = 0
    for seed in range(CONFIGURATIONS["orca"]):
        case, ours, _ = both("orca", seed)
        more = case._replace(semantics=case.semantics._replace(blocks=UNLIMITED))
        limited += not np.array_equal(simulated(more).completion, ours.completion)
    assert limited >= 8


@pytest.mark.parametrize("name", NATIVE)
def test_our_policy_inside_vidur_equals_the_native_scheduler(name):
    """The policies that Vidur has too give the same run as its own schedulers when they run through our adapter."""
    for seed in range(3):
        case, ours, _ = both(name, seed)
        assert_same(ours, in_vidur(case))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_same_times_when_prompts_come_prefilled(name):
    """Decode-only serving, with evictions; Vidur's own Sarathi scheduler takes such requests as they are."""
    evictions = 0
    for seed in range(12):
        case = random_case(name, seed)
        case = case._replace(semantics=case.semantics._replace(remote_prefill=True))
        native = name in native_policies(case.semantics)
        assert native == (name == "sarathi")
        ours = simulated(case)
        assert_same(ours, in_vidur(case, native=native))
        assert np.abs(ours.completion - both(name, seed)[1].completion).max() > 0
        evictions += ours.evictions.sum()
    assert (evictions > 0) == (name != "orca")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_arrivals_at_the_very_end_of_an_iteration(name):
    """Iterations of 1/8 s and arrivals at multiples of it: all times are exact, so events really coincide."""
    g = np.random.default_rng(5)
    some = requests(np.sort(g.integers(0, 160, 60)) / 8, g.integers(1, 200, 60), g.integers(1, 30, 60))
    case = random_case(name, 1)._replace(requests=some, time_model=linear(0.125, 0.0))
    if "max_wait" in case.spec:  # then wake-ups coincide with arrivals and ends as well
        case.spec["max_wait"] = 0.25
    ours = simulated(case)
    assert np.isin(some.arrival, ours.completion).any()
    assert_same(ours, in_vidur(case, native=name in NATIVE))


def test_two_runs_in_one_process_are_identical():
    """Vidur keeps id counters in classes; every run starts from a clean state."""
    case = random_case("sarathi", 0)
    first, second = in_vidur(case, native=True), in_vidur(case, native=True)
    assert first.first_token.tobytes() == second.first_token.tobytes()
    assert first.completion.tobytes() == second.completion.tobytes()
    assert first.evictions.tobytes() == second.evictions.tobytes()


def test_ids_start_from_zero_in_every_run():
    from vidur.entities import Request
    from vidur.events.base_event import BaseEvent

    case = random_case("vllm_v0", 1)
    seen = []
    for _ in range(2):
        in_vidur(case, native=True)
        seen.append((Request.generate_id(), BaseEvent.generate_id()))
    assert seen[0] == seen[1]
    assert seen[0][0] == len(case.requests.arrival)


@pytest.mark.parametrize(("name", "seed"), [("sarathi", 7), ("orca", 4), ("wait_chunked", 1)])
def test_same_log(name, seed):
    case = random_case(name, seed)
    policy, knobs = prepared(case.spec, case.requests, case.time_model, case.semantics)
    arguments = case.requests, policy, knobs, case.time_model, case.semantics
    ours = simulate(*arguments, log=True).log
    theirs = simulate_vidur(*arguments, native=name in NATIVE, log=True).log
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE
    assert (ours[-1, LOG_COLUMNS.index("evictions")] > 0) == (name != "orca")


# --- Vidur's own faults, so that we notice when a later version repairs them ------------------------------------------


def serve(request, tokens: int) -> None:
    """What Vidur does to a request when a batch with ``tokens`` of its tokens has run."""
    request.on_batch_stage_end(1.0, 0, 1.0, 1.0, tokens)
    request.on_batch_end(1.0, tokens)


def test_plain_vidur_request_fails_after_an_eviction():
    """Request.restart forgets the tokens counted per pipeline stage: the next prefill overruns its total."""
    from vidur.entities import Request

    request = Request(0.0, 10, 5)
    serve(request, 10)
    serve(request, 1)
    request.restart()
    assert (request.num_prefill_tokens, request.num_decode_tokens) == (12, 3)
    with pytest.raises(AssertionError):
        serve(request, 12)


def test_plain_vidur_restart_turns_the_rest_of_a_prompt_into_output():
    from vidur.entities import Request

    request = Request(0.0, 10, 5)
    serve(request, 4)
    request.restart()
    assert (request.num_prefill_tokens, request.num_decode_tokens) == (4, 11)


def test_plain_vidur_run_fails_on_an_eviction(monkeypatch):
    """Without the repaired restart a native run with evictions dies in Vidur's assertion; we say so in one line."""
    case, ours, _ = next(both("sarathi", s) for s in range(32) if both("sarathi", s)[1].evictions.sum() > 0)
    from vidur.entities import Request

    (replayed,) = (c for c in Request.__subclasses__() if c.__name__ == "ReplayedRequest")
    monkeypatch.delattr(replayed, "restart")
    with pytest.raises(EngineError) as error:
        in_vidur(case, native=True)
    assert str(error.value) == "vidur: sarathi: an assertion of Vidur failed"


def test_vidur_version():
    from importlib.metadata import version

    assert version("vidur") == VERSION


# --- what Vidur cannot do ---------------------------------------------------------------------------------------------


def test_refuses_what_vidur_cannot_run():
    some, model, ten = requests([0.0, 1.0], 8, 4), linear(1, 0), core.serving(10, 16, 0.1)
    wait, wait_knobs = prepared({"policy": "wait", "thresholds": [1]}, some, model, ten)
    sarathi, knobs = prepared({"policy": "sarathi"}, some, model, ten)
    with pytest.raises(ConfigError, match="semantics.*nearest valid: 'serving'"):
        simulate_vidur(some, sarathi, knobs, model, core.paper(100))
    with pytest.raises(ConfigError, match="Vidur has no scheduler 'wait'"):
        simulate_vidur(some, wait, wait_knobs, model, ten, native=True)
    with pytest.raises(ConfigError, match=r"Vidur has no scheduler 'vllm_v0' \(valid: sarathi\)"):
        simulate_vidur(some, *prepared({"policy": "vllm_v0"}, some, model, ten), model, core.decode(10), native=True)
    with pytest.raises(ConfigError, match="nearest valid value: 144"):
        simulate_vidur(requests([0.0], 150, 4), sarathi, knobs, model, ten)


@pytest.mark.parametrize("arrivals", [[0.0], [0.0, 1.0]], ids=["resident", "waiting"])
def test_a_request_left_behind_is_an_error(tmp_path, arrivals):
    """A policy that serves nothing after its first batch: Vidur's event queue just empties, which must not pass."""
    case = Case({"policy": str(only_once(tmp_path))}, requests(arrivals, 8, 4), core.serving(10))
    with pytest.raises(EngineError, match="left behind|pending requests$"):
        in_vidur(case)
