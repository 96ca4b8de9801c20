"""The compiled simulator against arithmetic done by hand, queueing theory, and the laws that every run must obey."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from engine_cases import NO_SETTINGS, only_once, policy_file, prepared, requests, run
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import TimeModel, linear
from fluidwait.engines import core
from fluidwait.engines.core import EngineError
from fluidwait.engines.simulator import simulate
from fluidwait.fluid.thresholds import wait_thresholds
from fluidwait.policies import load_policy
from fluidwait.stats.metrics import check_littles_law
from fluidwait.workload import LengthLaw

SECOND = linear(1.0, 0.0)  # every iteration takes one second
WAIT = {"policy": "wait", "max_wait": float("inf")}
FCFS = {"policy": "sarathi", "token_budget": 10**6, "max_requests": 10**6}
START, DURATION, TOKENS, BATCH_SIZE, KV_TOKENS, EVICTIONS = range(6)


# --- traces computed by hand ------------------------------------------------------------------------------------------


def test_a_state_is_of_one_type_whatever_the_arrays_of_the_requests():
    """Columns of a Parquet file are read-only, which Numba would compile the simulator for once more."""
    mine = requests([0.0, 1.0], prompt=[3, 2], output=[2, 1])
    frozen = mine._replace(**{name: array.copy() for name, array in mine._asdict().items()})
    for array in frozen:
        array.flags.writeable = False
    states = [core.new_state(each, core.paper(100)) for each in (mine, frozen)]
    assert numba.typeof(states[0]) == numba.typeof(states[1])
    assert all(array.flags.writeable for array in states[1])


def test_trace_wait():
    """Threshold 2, prompts of 2 and outputs of 2 tokens, paper semantics, tau = 1 + KV / 4.

    t = 0     one request waits, threshold 2: the server stays idle
    t = 3     two wait: both prefill, KV 2 + 2 = 4, tau = 2
    t = 5     only request 2 waits, so its type is not eligible and requests 0 and 1 pause
    t = 20    request 3 arrives; 2 and 3 prefill (2 + 2), 0 and 1 decode (3 + 3): KV 10, tau = 3.5
    t = 23.5  draining: 0 and 1 hold 4 each, 2 and 3 hold 3 each: KV 14, tau = 4.5; 0 and 1 are done
    t = 28    2 and 3 hold 4 each: KV 8, tau = 3; done at 31
    """
    some = requests([0, 3, 4, 20], 2, 2)
    result = run({**WAIT, "thresholds": [2]}, some, core.paper(14), linear(1.0, 0.25), log=True)
    assert result.first_token.tolist() == [5, 5, 23.5, 23.5]
    assert result.completion.tolist() == [28, 28, 31, 31]
    assert result.log.tolist() == [
        [3, 2, 4, 2, 4, 0],
        [20, 3.5, 6, 4, 10, 0],
        [23.5, 4.5, 4, 4, 14, 0],
        [28, 3, 2, 2, 8, 0],
    ]
    assert (result.iterations, result.busy, result.peak_blocks) == (4, 13.0, 14)


def test_trace_sarathi_chunks():
    """Token budget 4, tau = 1 + tokens / 4, first token at the end of the prefill.

    t = 0    request 0 (prompt 6, output 3): chunk of 4, tau = 2
    t = 2    its other 2, and 2 of request 1 (prompt 3, output 2): 4 tokens, tau = 2; 0 has its first token at 4
    t = 4    0 decodes, 1 prefills its last token: 2 tokens, tau = 1.5; 1 has its first token at 5.5
    t = 5.5  both decode, tau = 1.5; both are done at 7
    """
    some = requests([0, 0.5], [6, 3], [3, 2])
    model = linear(1.0, 0.0)._replace(compute_slope=0.25)
    spec = {"policy": "sarathi", "token_budget": 4, "max_requests": 8}
    result = run(spec, some, core.serving(10, 4, 0.0), model, log=True)
    assert result.first_token.tolist() == [4, 5.5]
    assert result.completion.tolist() == [7, 7]
    assert result.log.tolist() == [
        [0, 2, 4, 1, 4, 0],
        [2, 2, 4, 2, 6 + 2, 0],
        [4, 1.5, 2, 2, 7 + 3, 0],
        [5.5, 1.5, 2, 2, 8 + 4, 0],
    ]
    assert result.peak_blocks == 2 + 1  # 8 tokens in blocks of 4, and 4 tokens


DECODE_MODEL = linear(1.0, 0.25)._replace(prefill_request=10.0)  # so that a prefill would show


def test_trace_decode():
    """Prompts of 4 tokens came prefilled, all but the last token; outputs of 2, tau = 1 + KV / 4.

    t = 0     request 0 joins with 3 cached tokens and computes one more: KV 4, tau = 2; its first token at 2
    t = 2     0 decodes (5), 1 joins (4): KV 9, tau = 3.25; 0 is done and 1 has its first token at 5.25
    t = 5.25  1 decodes: KV 5, tau = 2.25; done at 7.5
    """
    some = requests([0, 0.5], 4, 2)
    for spec in (FCFS, {"policy": "vllm_v0"}, {"policy": "vllm_v1"}, {"policy": "nested_wait", "thresholds": [1]}):
        result = run(spec, some, core.decode(10, 4, 0.0), DECODE_MODEL, log=True)
        assert result.first_token.tolist() == [2, 5.25]
        assert result.completion.tolist() == [5.25, 7.5]
        assert result.log.tolist() == [[0, 2, 1, 1, 4, 0], [2, 3.25, 2, 2, 9, 0], [5.25, 2.25, 1, 1, 5, 0]]


def test_trace_decode_evicted_is_prefilled_here():
    """The same with outputs of 5 and 3 blocks of 4 tokens: one request fits to its end, two do not.

    t = 0      both join: KV 8, tau = 3; both have their first token at 3
    t = 3      0 needs a second block, and 1 would: 1 is evicted and waits for 2 blocks; 0 runs alone, KV 5, 6, 7, 8
    t = 13.5   0 is done; 1 prefills its 4 + 1 tokens here: KV 5, tau = 1 + 1.25 + 10; then decodes, KV 6, 7, 8
    """
    some = requests([0, 0], 4, 5)
    result = run(FCFS, some, core.decode(3, 4, 0.0), DECODE_MODEL, log=True)
    assert result.evictions.tolist() == [0, 1]
    assert result.first_token.tolist() == [3, 3]
    assert result.completion.tolist() == [13.5, 34]
    assert result.log[:, TOKENS].tolist() == [2, 1, 1, 1, 1, 5, 1, 1, 1]
    assert result.log[:, KV_TOKENS].tolist() == [8, 5, 6, 7, 8, 5, 6, 7, 8]
    assert result.log[:, EVICTIONS].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]


VLLM_V0_REQUESTS = requests([0, 0.5], [4, 2], [4, 3])


def test_trace_vllm_v0_eviction_recomputes():
    """Four blocks of 2 tokens; request 0: prompt 4, output 4; request 1: prompt 2, output 3; one second per iteration.

    t = 0  0 prefills: 2 blocks
    t = 1  prefills have priority: 1 alone, 1 block; 0 pauses
    t = 2  both need a new block to decode and one is free: 1, the newest, is evicted with one token generated, so that
           3 tokens are to prefill when it comes back; 0 decodes (3 blocks)
    t = 3  1 needs 2 blocks and one is free; 0 decodes within its last block
    t = 4  0 decodes (4 blocks) and is done at 5
    t = 5  1 prefills 3 tokens, which yields its second token; t = 6: its third, done at 7
    """
    result = run({"policy": "vllm_v0"}, VLLM_V0_REQUESTS, core.serving(4, 2, 0.0), SECOND, log=True)
    assert result.first_token.tolist() == [1, 2]
    assert result.completion.tolist() == [5, 7]
    assert result.evictions.tolist() == [0, 1]
    assert result.log[:, TOKENS].tolist() == [4, 2, 1, 1, 1, 3, 1]
    assert result.log[:, KV_TOKENS].tolist() == [4, 4 + 2, 5, 6, 7, 3, 4]
    assert result.peak_blocks == 4


def test_trace_vllm_v0_eviction_restarts():
    """The same, but an evicted request starts over from its prompt, and its first token is that of the last attempt.

    t = 3  1 needs one block only and comes back, prefills; t = 4: 0 needs a spare block to decode, 1 is evicted again
    t = 5  1 prefills a third time; t = 6: 0 needs a block, 1 is evicted, 0 is done at 7
    t = 7  1 prefills, first token at 8, done at 10
    """
    semantics = core.serving(4, 2, 0.0)._replace(recompute=False)
    result = run({"policy": "vllm_v0"}, VLLM_V0_REQUESTS, semantics, SECOND, log=True)
    assert result.first_token.tolist() == [1, 8]
    assert result.completion.tolist() == [7, 10]
    assert result.evictions.tolist() == [0, 3]
    assert result.log[:, TOKENS].tolist() == [4, 2, 1, 2, 1, 2, 1, 2, 1, 1]


# --- the paper's model ------------------------------------------------------------------------------------------------


def test_paper_memory_and_iterations():
    """l' + 1 iterations, and l + s tokens in iteration s."""
    result = run({**WAIT, "thresholds": [1]}, requests([2.0], 5, 3), core.paper(8), linear(1.0, 0.5), log=True)
    assert result.log[:, KV_TOKENS].tolist() == [5, 6, 7, 8]
    assert result.log[:, DURATION].tolist() == [3.5, 4, 4.5, 5]
    assert result.completion.tolist() == [2 + 17]
    assert result.first_token.tolist() == [2 + 3.5]
    assert result.peak_blocks == 8


def test_serving_iterations():
    """The prefill yields the first token: l' iterations."""
    result = run(FCFS, requests([0.0], 5, 3), core.serving(10, 4, 0.0), SECOND, log=True)
    assert result.log[:, TOKENS].tolist() == [5, 1, 1]
    assert result.log[:, KV_TOKENS].tolist() == [5, 6, 7]
    assert (result.first_token[0], result.completion[0]) == (1, 3)


@pytest.mark.parametrize(("n", "capacity"), [(2, 28), (3, 42)], ids=["equality", "slack"])
def test_fluid_equilibrium_is_held(n, capacity):
    """Deterministic arrivals at the fluid rate keep M^pi and throughput*, in exactly that much memory.

    l = 2, l' = 3: w = 4 (2 + 3/2) = 14. With tau = 1 + KV/4 and rate 1/4:
    n = 2: M^pi = 28, dT = 8 = n / rate (equality);  n = 3: M^pi = 42, dT = 11.5 < 12 = n / rate (slack).
    """
    rate, w, d1 = 0.25, 14, 0.25
    law = LengthLaw(np.array([2.0]), np.array([3.0]), np.ones(1))
    assert wait_thresholds(law, rate, 1.0, d1, capacity).n[0] == 2
    assert 1 + d1 * n * w <= n / rate
    some = requests(np.arange(600) / rate, 2, 3)
    result = run({**WAIT, "thresholds": [n]}, some, core.paper(capacity), linear(1.0, d1), log=True)
    steady = result.log[10:-10]
    assert np.all(steady[:, KV_TOKENS] == n * w)
    assert np.all(steady[:, DURATION] == 1 + d1 * n * w)
    assert np.all(np.diff(steady[:, START]) == n / rate)
    assert result.peak_blocks == capacity
    assert result.evictions.sum() == 0
    late = result.completion[(result.completion > 200) & (result.completion <= 200 + 50 * n / rate)]
    assert 3 * len(late) / (50 * n / rate) == 3 * rate  # throughput* = rate l'


def toy(first_wave: list[int], spec: dict):
    """The paper's toy example: l = l' = 1, C = 12, iterations of one second, then 4 arrivals per iteration.

    Returns (completions per iteration 0, 1, ..., evictions in all).
    """
    waves = first_wave + [4] * 200
    some = requests(np.repeat(np.arange(len(waves)), waves), 1, 1)
    result = run(spec, some, core.paper(12), SECOND)
    return np.bincount(result.completion.astype(int) - 1), result.evictions.sum()


def test_toy_balanced_state_sustains_four():
    """4 prefills (4 tokens) and 4 decodes (8 tokens) fill the memory exactly, under FCFS as under WAIT."""
    for spec in (FCFS, {**WAIT, "thresholds": [4]}):
        completed, evictions = toy([4], spec)
        assert np.all(completed[1:201] == 4)
        assert evictions == 0


def test_toy_fcfs_falls_into_an_evict_restart_cycle():
    """From 6 waiting and 3 decoding, FCFS ends at 3 completions per iteration: 12 prefills, then 6 of them evicted.

    t = 1  3 decode (6 tokens) and 6 prefill (6 tokens): 12
    t = 2  6 decode: 12 tokens, no room for the 4 that wait
    t = 3  8 prefill;  t = 4: 8 decodes would need 16 tokens: 2 are evicted and start over, 6 complete
    and so on, every second iteration with more prefills, up to 12, and more evictions, up to 6.
    """
    completed, evictions = toy([3, 6], FCFS)
    assert completed[1:7].tolist() == [3, 6, 0, 6, 0, 6]
    assert np.all(completed[3:199:2] == 0)
    assert np.all(completed[4:200:2] == 6)
    assert evictions > 500


def test_toy_wait_reaches_the_balance():
    """WAIT does not start the 3 alone, so that state cannot arise: from 9 waiting it serves 4 per iteration at once."""
    completed, evictions = toy([3, 6], {**WAIT, "thresholds": [4]})
    assert completed[:2].tolist() == [0, 0]
    assert np.all(completed[2:202] == 4)
    assert evictions == 0


# --- queueing theory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "output", "service"), [(1, 1, 1), (100, 5, 8)], ids=["one step", "chunked"])
def test_one_at_a_time_is_md1(prompt, output, service):
    """One request in service: every waiting time follows Lindley's recursion, their mean Pollaczek-Khinchine.

    Prompt 100 in chunks of 30 takes 4 iterations, the last of which yields the first of 5 tokens: 8 iterations.
    """
    n, load = 200_000, 0.7
    gaps = np.random.default_rng(1).exponential(service / load, n)
    some = requests(np.cumsum(gaps), prompt, output)
    spec = {"policy": "sarathi", "token_budget": 30, "max_requests": 1}
    result = run(spec, some, core.serving(100), SECOND)
    waited = result.completion - some.arrival - service
    wait, expected = 0.0, np.empty(n)
    for i in range(n):
        wait = max(0.0, wait + service - gaps[i]) if i else 0.0
        expected[i] = wait
    assert np.abs(waited - expected).max() < 1e-6  # the clock reads up to 2e6 s, to 2e-10; the errors add up
    batches = waited.reshape(40, -1).mean(axis=1)
    error = batches.std(ddof=1) / 40**0.5
    assert abs(waited.mean() - service * load / (2 * (1 - load))) < 4 * error
    assert error < 0.05 * waited.mean()


def served_in_batches(arrival, most):
    """Completion times when up to ``most`` waiting requests are served together, one second per batch."""
    completion, now, head = np.empty(len(arrival)), 0.0, 0
    while head < len(arrival):
        now = max(now, arrival[head])
        end = min(head + most, int(np.searchsorted(arrival, now, side="right")))
        now += 1.0
        completion[head:end] = now
        head = end
    return completion


def batch_service_latency(rate, most, states=400):
    """Mean latency of M/D/1 with service of up to ``most`` at once and at least one, by its embedded Markov chain.

    The chain is the number left at the end of a service. From 0 the server waits 1/rate for an arrival.
    """
    step = np.zeros((states, states))
    for q in range(states):
        left = max(q - most, 0)
        step[q, left:] = stats.poisson.pmf(np.arange(states - left), rate)
    a = np.vstack([step.T - np.eye(states), np.ones(states)])
    share = np.linalg.lstsq(a, np.append(np.zeros(states), 1.0), rcond=None)[0]
    q = np.arange(states)
    seconds = np.where(q == 0, 1 / rate + 1, 1)
    area = np.maximum(q, 1) + rate / 2  # request-seconds of a cycle: present from its start, or arriving within it
    return (share @ area) / (share @ seconds) / rate


def test_prompts_in_batches_is_bulk_service():
    """vllm_v0 with outputs of one token serves up to its request cap at once: M/D^[b]/1."""
    n, rate, most = 200_000, 6.0, 8
    some = requests(np.cumsum(np.random.default_rng(2).exponential(1 / rate, n)), 10, 1)
    result = run({"policy": "vllm_v0", "max_requests": most}, some, core.serving(1000), SECOND)
    assert np.abs(result.completion - served_in_batches(some.arrival, most)).max() < 1e-9
    batches = (result.completion - some.arrival).reshape(40, -1).mean(axis=1)
    error = batches.std(ddof=1) / 40**0.5
    assert abs(batches.mean() - batch_service_latency(rate, most)) < 4 * error
    assert error < 0.02 * batches.mean()


# --- laws of every run ------------------------------------------------------------------------------------------------

SPECS = {
    "sarathi": {"token_budget": 30, "max_requests": 6},
    "vllm_v0": {"max_requests": 6, "token_cap": 60},
    "vllm_v1": {"token_budget": 30, "max_requests": 6},
    "fluid_budget": {"batch_tokens": 30, "max_requests": 6},
    "orca": {"max_requests": 6, "max_model_len": 60},
    "wait": {"thresholds": [3], "max_wait": 2.0},
    "nested_wait": {"boundaries": [3, 20], "thresholds": [3, 2], "max_wait": 2.0},
    "wait_chunked": {"in_service": 6, "chunk": 10, "boundaries": [3, 20], "max_wait": 2.0},
}


@st.composite
def workloads(draw):
    """(requests, semantics): up to 40 requests of up to 40 tokens in memory for one to a few of them."""
    rows = draw(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 2.0, 50.0]), st.integers(1, 20), st.integers(1, 20))))
    rows += [(0.3, 5, 2), (0.0, 5, 20)]  # both segments of SPECS are always in use
    gaps, prompt, output = zip(*rows, strict=True)
    tokens = draw(st.integers(60, 160))
    recompute, emits = draw(st.booleans()), draw(st.booleans())
    size = draw(st.sampled_from([1, 4, 16]))
    blocks = -(-tokens // size)
    watermark, remote = draw(st.integers(0, (tokens - 44) // size)), emits and draw(st.booleans())
    semantics = core.Semantics(blocks, size, watermark, emits, recompute, remote_prefill=remote)
    return requests(np.cumsum(gaps), prompt, output), semantics


@pytest.mark.parametrize("name", SPECS)
@settings(max_examples=60, deadline=None)
@given(workload=workloads())
def test_laws(name, workload):
    """Conservation, capacity and causality are checked by the engine at every iteration; the rest is checked here."""
    some, semantics = workload
    model = linear(0.5, 0.01)
    result = run({"policy": name, **SPECS[name]}, some, semantics, model, log=True)
    again = run({"policy": name, **SPECS[name]}, some, semantics, model, log=True, check=False)
    for ours, same in zip(result, again, strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(same).tobytes()

    assert np.all(result.first_token > some.arrival)
    last_prefill = (result.completion == result.first_token) == (some.output == 1)
    assert np.all(result.completion >= result.first_token)
    assert not semantics.prefill_emits or np.all(last_prefill | (result.evictions > 0))
    check_littles_law(some.arrival, result.completion)

    log, end = result.log, result.log[:, START] + result.log[:, DURATION]
    assert len(log) == result.iterations
    assert log[:, DURATION].sum() == pytest.approx(result.busy, rel=1e-12)
    assert np.all(log[1:, START] >= end[:-1])
    assert np.isin(result.completion, end).all()
    assert np.isin(result.first_token, end).all()
    of_residents = 0.5 + 0.01 * log[:, KV_TOKENS]
    assert np.all(log[:, DURATION] <= of_residents + 1e-9)
    if name == "orca":  # the one policy that never pauses a resident
        assert log[:, DURATION] == pytest.approx(of_residents)
    computed = some.prompt.sum() + some.output.sum() - (len(some.output) if semantics.prefill_emits else 0)
    if semantics.remote_prefill:
        computed = some.output.sum()
    assert log[:, TOKENS].sum() == computed + result.recomputed.sum()
    assert np.all(result.recomputed[result.evictions == 0] == 0)
    assert np.all(result.recomputed >= result.evictions)  # whoever is resident has computed something
    assert log[:, KV_TOKENS].max() <= result.peak_blocks * semantics.block_size
    assert log[-1, EVICTIONS] == result.evictions.sum()
    assert np.all(np.diff(log[:, EVICTIONS]) >= 0)
    if name != "orca":  # it holds whole sequences
        assert result.peak_blocks <= semantics.blocks

    if name in ("sarathi", "vllm_v1", "fluid_budget"):  # never idle while anybody is there
        for i in np.flatnonzero(log[1:, START] > end[:-1]):
            assert not np.any((some.arrival <= end[i]) & (result.completion > end[i]))
            assert log[i + 1, START] in some.arrival


def test_laws_were_tested_with_evictions():
    """The workloads of test_laws do run out of memory: this one is among them."""
    some = requests([0.0, 0.0, 0.0, 0.0], 15, 20)
    for name in ("sarathi", "vllm_v0", "vllm_v1", "fluid_budget", "wait_chunked", "wait", "nested_wait"):
        assert run({"policy": name, **SPECS[name]}, some, core.serving(5), SECOND).evictions.sum() > 0


def test_orca_reserves_whole_sequences():
    """Memory for 2 sequences of 60 tokens serves two at a time; nothing is evicted."""
    some = requests(np.zeros(6), 10, 5)
    result = run({"policy": "orca", **SPECS["orca"]}, some, core.serving(8, 16, 0.0), SECOND)
    assert result.completion.tolist() == [5, 5, 10, 10, 15, 15]
    assert result.evictions.sum() == 0
    assert result.peak_blocks == 2 * (60 // 16)


def test_order_within_a_batch_does_not_matter():
    """Requests that arrive together may be listed in any order: the same times to the last bit."""
    g = np.random.default_rng(3)
    groups, size = 50, 6
    arrival = np.repeat(np.cumsum(g.exponential(1.0, groups)), size)
    prompt, output = g.integers(1, 300, groups * size), g.integers(1, 40, groups * size)
    shuffle = np.concatenate([i * size + g.permutation(size) for i in range(groups)])
    for name in ("sarathi", "vllm_v1"):
        spec = {"policy": name, "token_budget": 10**6, "max_requests": 10**6}
        straight = run(spec, requests(arrival, prompt, output), core.serving(10**5))
        shuffled = run(spec, requests(arrival, prompt[shuffle], output[shuffle]), core.serving(10**5))
        assert shuffled.completion.tobytes() == straight.completion[shuffle].tobytes()
        assert shuffled.first_token.tobytes() == straight.first_token[shuffle].tobytes()


def test_input_is_not_changed():
    some = requests([0, 0, 1], [40, 20, 30], [20, 20, 20])
    before = [column.copy() for column in some]
    assert run(FCFS, some, core.serving(5, 16, 0.0)).evictions.sum() > 0
    for column, copy in zip(some, before, strict=True):
        assert np.array_equal(column, copy)


def test_no_requests():
    policy = load_policy(FCFS)
    result = simulate(requests([], 1, 1), policy, policy.prepare(None), SECOND, core.serving(5))
    assert (result.iterations, result.busy, len(result.completion)) == (0, 0.0, 0)


# --- what goes wrong is said in one line ------------------------------------------------------------------------------


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_stranded_requests_are_an_error(tmp_path):
    file = only_once(tmp_path)
    with pytest.raises(EngineError) as error:
        run({"policy": str(file)}, requests([0.0, 1.0], 8, 4), core.serving(10), SECOND)
    text = one_line(error)
    assert text.startswith(f"{file}: requests stranded at t = 1 s")
    assert "request 0 (prompt 8, 1 tokens generated)" in text


MISBEHAVIOUR = [
    # a resident that has 5 of 9 prompt tokens, and one waiting request
    ("out.tokens[0] = 5", "breaks the contract"),
    ("out.tokens[0] = -1", "breaks the contract"),
    ("admitted, out.chunk[0] = 1, 0", "breaks the contract"),
    ("admitted, out.chunk[0] = 1, 10", "breaks the contract"),
    ("admitted, out.chunk[0], out.chunk[1] = 2, 1, 1", "breaks the contract"),
    ("out.tokens[0], view.generated[0] = 4, 3", None),
    ("out.tokens[0], view.held[0] = 4, 9", "invariant violated"),
    ("out.tokens[0], view.cached[0] = 1, 1", "invariant violated"),
]
"""What a policy does at its second decision, and what the engine says."""


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory):
    """One policy for all of them, so that it compiles once: ``unused`` picks the misbehaviour."""
    branches = "".join(
        f"        {'if' if i == 0 else 'elif'} knobs.unused == {i}:\n            {act}\n"
        for i, (act, _) in enumerate(MISBEHAVIOUR)
    )
    body = (
        "    admitted = 0\n"
        "    if len(view.resident) == 0:\n"
        "        admitted, out.admit[0], out.chunk[0] = 1, 0, 5\n"
        "        if knobs.unused == 100:\n"
        "            admitted = len(view.waiting)\n"
        "            for i in range(admitted):\n"
        "                out.admit[i], out.chunk[i] = i, 9\n"
        "    else:\n" + branches + "        else:\n            out.tokens[0] = 2\n"
        '    return admitted, float("inf")\n'
    )
    path = tmp_path_factory.mktemp("policy") / "misbehaving.py"
    path.write_text(NO_SETTINGS + body)
    return str(path)


@pytest.mark.parametrize(("which", "says"), [(i, says) for i, (_, says) in enumerate(MISBEHAVIOUR) if says])
def test_a_bad_plan_is_an_error(misbehaving, which, says):
    with pytest.raises(EngineError) as error:
        run({"policy": misbehaving, "unused": which}, requests([0.0, 0.0], 9, 4), core.serving(10), SECOND)
    assert says in one_line(error)
    assert one_line(error).startswith(f"{misbehaving}: ")


def test_two_tokens_for_a_decode_are_an_error(misbehaving):
    with pytest.raises(EngineError, match="breaks the contract"):
        run({"policy": misbehaving, "unused": 99}, requests([0.0], 5, 4), core.serving(10), SECOND)


def test_overcommitting_is_an_error(misbehaving):
    with pytest.raises(EngineError) as error:
        run({"policy": misbehaving, "unused": 100}, requests([0.0] * 5, 9, 4), core.serving(4, 16, 0.0), SECOND)
    assert one_line(error) == f"{misbehaving}: the plan at t = 0 s admits more than the free KV blocks hold"


@pytest.mark.parametrize(
    ("spec", "semantics", "valid"),
    [
        (FCFS, core.serving(10, 16, 0.1), 144),
        (FCFS, core.paper(100), 100),
        ({"policy": "vllm_v0", "token_cap": 50}, core.serving(100), 50),
        ({"policy": "orca", "max_model_len": 65}, core.serving(100), 64),
    ],
    ids=["watermark", "paper", "token cap", "reservation"],
)
def test_a_request_that_never_fits_is_refused(spec, semantics, valid):
    fitting = requests([0.0, 1.0], valid - 4, 4)
    run(spec, fitting, semantics, SECOND)
    with pytest.raises(ConfigError) as error:
        run(spec, fitting._replace(output=np.array([4, 5])), semantics, SECOND)
    text = one_line(error)
    assert text.startswith(f"request 1: prompt {valid - 4} + output 5 = {valid + 1} tokens, but ")
    assert text.endswith(f"(nearest valid value: {valid})")


@pytest.mark.parametrize("spec", [{**WAIT, "thresholds": [1]}, {"policy": "nested_wait", **SPECS["nested_wait"]}])
def test_an_output_beyond_the_stages_of_a_policy_is_refused(spec):
    """These policies count requests per stage: a longer output would count where it does not belong."""
    some = requests([0.0, 1.0], 10, 20)
    policy, knobs = prepared(spec, some, SECOND, core.serving(10))
    simulate(some, policy, knobs, SECOND, core.serving(10))
    with pytest.raises(ConfigError) as error:
        simulate(some._replace(output=np.array([20, 21])), policy, knobs, SECOND, core.serving(10))
    assert one_line(error).startswith(
        f"request 1: output 21 tokens, but '{policy.name}' is set up for outputs of at most"
    )
    assert one_line(error).endswith("(nearest valid value: 20)")


def test_a_reservation_larger_than_memory_is_refused():
    with pytest.raises(ConfigError, match="reserves 64 tokens for a request, the KV memory has 48"):
        run({"policy": "orca", "max_model_len": 64}, requests([0.0], 4, 4), core.serving(3), SECOND)


# --- every run ends, or says why --------------------------------------------------------------------------------------

NO_TIME = TimeModel(0.0, 0.0, np.zeros(1), *[0.0] * 8)
NEVER_OPEN = {"policy": "nested_wait", "boundaries": [9, 13, 24], "thresholds": [5, 2, 1], "max_wait": 0.5}
TIGHT = core.Semantics(41, 4, 2, True, False)


def test_a_gate_that_evicts_and_admits_for_ever_is_told():
    """Iterations that take no time: neither an arrival nor the end of anyone's patience ever comes.

    The oldest requests are held at a boundary of which the threshold is never met, while the newest is evicted, comes
    back, and is evicted again.
    """
    told = 0
    for seed in range(40):
        g = np.random.default_rng(seed)
        arrival = np.cumsum(g.exponential(1 / g.choice([1, 5, 20, 100]), 30))
        some = requests(arrival, g.integers(1, g.choice([30, 60, 130]), 30), g.integers(1, 25, 30))
        try:
            run(NEVER_OPEN, some, TIGHT, NO_TIME)
        except EngineError as error:
            told += 1
            assert str(error).startswith("nested_wait: no end in sight at t = ")
            assert "does not come to its end" in str(error) and "\n" not in str(error)
        assert run(NEVER_OPEN, some, TIGHT, SECOND).completion.max() < np.inf  # patience ends where time passes
    assert told > 0


def test_a_policy_that_asks_to_be_woken_for_ever_is_told(tmp_path):
    body = "    return 0, view.now + 1e-3\n"
    spec = {"policy": str(policy_file(tmp_path, "sleeper", body))}
    with pytest.raises(EngineError, match=r"sleeper\.py: no end in sight"):
        run(spec, requests([0.0], 8, 4), core.serving(10), SECOND)


SMALL = [("vllm_v0", {}), ("vllm_v1", {}), ("sarathi", {}), ("wait_chunked", {"in_service": 4, "segments": 1})]
SMALL += [("nested_wait", {"segments": 1, "thresholds": [1]}), ("wait", {"thresholds": [1]})]


@pytest.mark.parametrize(("name", "settings"), SMALL, ids=[name for name, _ in SMALL])
@pytest.mark.parametrize("kind", ["recompute", "restart", "decode", "paper"])
def test_what_passes_the_check_at_the_start_is_served(name, settings, kind):
    """Memory for hardly one request. Every length is refused, or takes the sum of its iterations and no eviction."""
    served, refused = 0, 0
    for blocks, size in ((1, 32), (7, 4), (2, 63), (7, 3), (7, 8), (3, 1)):
        semantics = {
            "recompute": core.serving(blocks, size, 0.0),
            "restart": core.serving(blocks, size, 0.0)._replace(recompute=False),
            "decode": core.decode(blocks, size, 0.0),
            "paper": core.paper(blocks * size),
        }[kind]
        longest = blocks * size if kind == "paper" else (blocks - 1) * size + 2
        for prompt in (1, 2, max(1, longest // 2), longest - 1):
            for output in {1, 2, longest - prompt - 1, longest - prompt, longest - prompt + 1, blocks * size - prompt}:
                if prompt < 1 or output < 1:
                    continue
                some = requests([1.0], prompt, output)
                try:
                    result = run({"policy": name, **settings}, some, semantics, LINEAR, log=True)
                except ConfigError as error:
                    refused += 1
                    assert prompt + output > longest and output > 1 or prompt + output > blocks * size
                    assert "nearest valid value: " in str(error)
                    continue
                served += 1
                assert prompt + output <= longest or output == 1
                assert result.evictions.tolist() == [0]
                iterations = output + (kind == "paper")
                assert result.iterations == iterations
                assert result.completion[0] - 1 == pytest.approx(alone(prompt, iterations, kind), rel=1e-12)
    assert served > 20 and (refused > 5 or kind == "paper")


LINEAR = linear(0.5, 0.01)


def alone(prompt: int, iterations: int, kind: str) -> float:
    """Seconds of a request by itself under LINEAR: the prefill, then one token more in the cache each time."""
    return sum(0.5 + 0.01 * (prompt + i) for i in range(iterations))


def test_the_spare_block_of_a_decode_is_part_of_the_check():
    """7 blocks of 4 tokens: 26 tokens can be decoded to their end, 27 find no spare block for the last one."""
    for name in ("vllm_v0", "vllm_v1", "sarathi"):
        run({"policy": name}, requests([0.0], 1, 25), core.serving(7, 4, 0.0), SECOND)
        with pytest.raises(ConfigError) as error:
            run({"policy": name}, requests([0.0], 1, 26), core.serving(7, 4, 0.0), SECOND)
        text = one_line(error)
        assert "holds 26 tokens of one request and the spare block that every decode asks for" in text
        assert text.endswith("(nearest valid value: 26)")
    run({"policy": "vllm_v0"}, requests([0.0], 27, 1), core.serving(7, 4, 0.0), SECOND)  # never decodes


def test_a_reservation_of_less_than_a_block_is_refused():
    with pytest.raises(ConfigError) as error:
        run({"policy": "orca", "max_model_len": 20}, requests([0.0], 4, 4), core.serving(9, 32), SECOND)
    assert one_line(error).endswith("less than one block of memory (nearest valid value: 32)")
