"""The simulator and real Vidur 0.0.26 give the same times, request by request.

Vidur's own vLLM, Sarathi and Orca schedulers run unmodified; our policies run inside Vidur as replica schedulers.
Iteration times come from the calibrated A100 model.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from engine_cases import (
    POLICIES,
    UNLIMITED,
    Case,
    corner_case,
    in_vidur,
    only_once,
    prepared,
    random_case,
    requests,
    simulated,
)

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import TimeModel, linear
from fluidwait.engines import core, simulator, vidur
from fluidwait.engines.core import EngineError
from fluidwait.engines.simulator import LOG_COLUMNS, simulate
from fluidwait.engines.vidur import NATIVE, VERSION, native_policies, simulate_vidur

pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")

CONFIGURATIONS = {
    "vllm_v0": 32,
    "sarathi": 32,
    "orca": 32,
    "wait_chunked": 32,
    "vllm_v1": 12,
    "fluid_budget": 24,
    "fluid_lookahead": 12,
    "nested_wait": 9,
    "wait": 9,
}
CAPS = {
    "vllm_v0": ["max_requests", "token_cap"],
    "sarathi": ["max_requests", "token_budget"],
    "orca": ["max_requests"],
    "vllm_v1": ["max_requests", "token_budget"],
    "fluid_budget": ["max_requests", "batch_tokens"],
    "fluid_lookahead": ["max_requests"],
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


# --- corners: tiny blocks, few blocks, small caps, requests as long as the memory can serve ---------------------------

CORNERS = range(240)


@cache
def corner(seed: int):
    """(case, simulator's run, Vidur's run), the runs None where the simulator refuses the requests."""
    case = corner_case(seed)
    try:
        return case, simulated(case), in_vidur(case, native=case.spec["policy"] in native_policies(case.semantics))
    except ConfigError as error:
        assert "nearest valid value" in str(error) or "the KV memory has" in str(error)
        return case, None, None


@pytest.mark.parametrize("first", CORNERS[::20])
def test_same_times_in_corners(first):
    for seed in range(first, first + 20):
        case, ours, theirs = corner(seed)
        if ours is None:
            native = case.spec["policy"] in native_policies(case.semantics)
            with pytest.raises(ConfigError):  # Vidur's engine refuses them as well
                in_vidur(case, native=native)
            continue
        assert_same(ours, theirs)


def test_corners_are_corners():
    """They reach what the other configurations do not, and most runs are not refused."""
    cases = [(case, ours) for case, ours, _ in map(corner, CORNERS) if ours is not None]
    assert len(cases) > 0.8 * len(CORNERS)
    assert {case.spec["policy"] for case, _ in cases} == set(POLICIES)
    few = [ours for case, ours in cases if case.semantics.blocks <= 4]
    tiny = [ours for case, ours in cases if case.semantics.block_size <= 3]
    whole = [1 for case, _ in cases if _longest(case) >= (case.semantics.blocks - 1) * case.semantics.block_size]
    assert len(few) > 20 and len(tiny) > 60 and len(whole) > 20
    assert sum(ours.evictions.sum() > 0 for ours in tiny) > 20
    assert sum(ours.peak_blocks == case.semantics.blocks for case, ours in cases) > 40


def _longest(case: Case) -> int:
    return int((case.requests.prompt + case.requests.output).max())


@pytest.mark.parametrize(
    ("blocks", "size", "spec", "decode", "evicts"),
    [
        (7, 3, {"policy": "vllm_v0", "token_cap": 22}, False, True),
        (7, 8, {"policy": "vllm_v0", "token_cap": 53}, False, True),
        (2, 32, {"policy": "vllm_v0"}, True, True),
        (2, 8, {"policy": "vllm_v1", "token_budget": 1}, False, False),  # one token: only the oldest moves
        (1, 32, {"policy": "vllm_v0"}, True, False),
        (1, 32, {"policy": "vllm_v1", "token_budget": 1}, False, False),
    ],
)
def test_memory_for_hardly_more_than_one_request(blocks, size, spec, decode, evicts):
    """Where the two once differed: a request alone in a full memory evicted itself.

    Vidur takes it back at once and has its last tokens out of prefills; our policies of these names left the server
    idle. Both engines now refuse such a request, and agree on every one that can be decoded to its end.
    """
    semantics = core.serving(blocks, size, 0.0)._replace(remote_prefill=decode)
    longest = (blocks - 1) * size + 2
    native = spec["policy"] in native_policies(semantics)
    evictions = 0
    for seed in range(8):
        g = np.random.default_rng(seed)
        length = g.integers(2, longest + 1, 12)
        length[g.random(12) < 0.3] = longest
        output = np.array([int(g.integers(1, total)) for total in length])
        case = Case(spec, requests(np.cumsum(g.exponential(0.1, 12)), length - output, output), semantics)
        ours = simulated(case)
        assert_same(ours, in_vidur(case, native=native))
        evictions += ours.evictions.sum()
        for engine in (simulated, lambda case: in_vidur(case, native=native)):
            with pytest.raises(ConfigError, match="nearest valid value"):
                engine(case._replace(requests=requests([0.0, 1.0], 1, [1, longest])))
    assert (evictions > 0) == evicts


@pytest.mark.parametrize(("blocks", "size", "cap"), [(7, 3, 22), (7, 8, 53), (1, 32, 32)])
def test_beyond_the_check_the_server_does_as_vidur(monkeypatch, blocks, size, cap):
    """Requests that fill the memory, let in: evicted when they are alone, and taken back at once, not left behind."""
    for module in (simulator, vidur):
        monkeypatch.setattr(module, "check_requests", lambda *_: None)
    alone = 0
    for seed in range(25):
        g = np.random.default_rng(seed)
        length = np.minimum(g.integers(2, blocks * size + 1, 12), cap)
        length[g.random(12) < 0.3] = min(blocks * size, cap)
        output = np.array([int(g.integers(1, total)) for total in length])
        some = requests(np.cumsum(g.exponential(0.1, 12)), length - output, output)
        case = Case({"policy": "vllm_v0", "token_cap": cap}, some, core.serving(blocks, size, 0.0))
        ours = simulated(case)
        assert_same(ours, in_vidur(case, native=True))
        alone += ours.evictions[0] > 0  # the oldest: nobody evicts it but itself
        v1 = case._replace(spec={"policy": "vllm_v1", "token_budget": cap})
        assert_same(simulated(v1), in_vidur(v1))
    assert alone > 0


def test_a_run_without_end_is_told_in_vidur_too(monkeypatch):
    monkeypatch.setattr(core, "most_fruitless", lambda state: 5)
    policy = Case(
        {"policy": "nested_wait", "boundaries": [9, 13, 24], "thresholds": [5, 2, 1], "max_wait": 0.5},
        requests(np.arange(30) / 100, 40, np.arange(30) % 24 + 1),
        core.Semantics(41, 4, 2, True, False),
        TimeModel(0.0, 0.0, np.zeros(1), *[0.0] * 8),
    )
    with pytest.raises(EngineError, match="vidur: nested_wait: no end in sight"):
        in_vidur(policy)


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
