"""The rivals: what holds for all of them, and for each that its rule does what its text says.

Views made by hand are asked in plain Python, so that only the simulator is compiled for each.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from policy_cases import INF, Asked, Request, decoding, law

from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import TimeModel, linear
from fluidwait.engines import core
from fluidwait.engines.rehearsal import interpreted
from fluidwait.engines.simulator import simulate
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context, Plan, View
from fluidwait.workload import LengthLaw, Requests

MODEL = linear(0.01, 1e-5)
LONGEST = 120
LAW = LengthLaw(np.array([30.0] * 3), np.array([10.0, 40.0, LONGEST]), np.array([0.5, 0.3, 0.2]))
SPECS = {
    "sglang": {"chunk_tokens": 60, "max_requests": 12},
    "trtllm": {"token_budget": 400, "max_requests": 12},
    "trtllm max_utilization": {"mode": "max_utilization", "token_budget": 60, "max_requests": 12, "chunked": True},
    "trtllm waiting": {"token_budget": 400, "max_requests": 12, "wait_share": 0.5, "wait_iterations": 9},
    "lightllm": {"max_requests": 12},
    "tgi": {"prefill_tokens": 90, "max_requests": 12},
    "lmdeploy": {"prefill_tokens": 90, "max_requests": 12},
    "ppas": {"shared_tokens": 30, "token_budget": 90, "max_requests": 12},
    "mcsf": {"token_budget": 60, "max_requests": 12},
    "sorted_f": {"token_budget": 60, "max_requests": 12, "window": 9},
    "svf": {"token_budget": 60, "max_requests": 12},
    "a_min": {"token_budget": 60, "max_requests": 12},
    "flow_control": {"token_budget": 60, "max_requests": 12},
    "eb_plus": {"mode": "exclusive", "threshold": 0.3, "token_budget": 60, "max_requests": 12},
}
NEVER_EVICT = ("trtllm", "trtllm waiting", "tgi")
AHEAD = ("mcsf", "sorted_f")


def spec_of(name, **changed) -> dict:
    return {"policy": name.split()[0], **SPECS[name], **changed}


class Interpreted(Asked):
    """A policy asked in plain Python; who must go is asked too."""

    def __init__(self, spec, lengths=None, **more):
        super().__init__(spec, lengths or LAW, **more)
        module = self.policy.module
        self.plan, self.victim = (interpreted(f) for f in (module.plan, core.victim_of(module)))


def asked(name, **changed) -> Interpreted:
    return Interpreted(spec_of(name, **changed))


def workload(seed, n=60, rate=25.0, predicted=False) -> Requests:
    g = np.random.default_rng(seed)
    arrival = np.cumsum(g.exponential(1 / rate, n))
    prompt, output = g.integers(1, 60, n), g.integers(1, LONGEST, n)
    guess = np.clip(np.rint(output * np.exp(0.7 * g.standard_normal(n))), 1, LONGEST).astype(np.int64)
    guess = guess if predicted else np.zeros(n, dtype=np.int64)
    return Requests(arrival, prompt, output, np.zeros(n, dtype=np.int64), (), np.full(n, LONGEST), guess)


def prepared(name, capacity, error=None, **changed):
    policy = load_policy(spec_of(name, **changed))
    return policy, policy.prepare(Context(LAW, 10.0, MODEL, (0.01, 1e-5), capacity, True, prediction_error=error))


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_everybody_is_served_with_little_memory(name):
    """Random requests, every law checked at every iteration; memory holds one request or a few."""
    evictions = 0
    for seed, blocks in enumerate([13, 13, 16, 24, 40, 100]):
        for predicted in (False, True):
            semantics = core.serving(blocks, 16, [0.0, 0.05][seed % 2])
            policy, knobs = prepared(name, blocks * 16, 0.7 if predicted else None)
            some = workload(seed, predicted=predicted)
            run = simulate(some, policy, knobs, MODEL, semantics, check=True)
            assert np.isfinite(run.completion).all()
            again = simulate(some, policy, knobs, MODEL, semantics)
            assert again.completion.tobytes() == run.completion.tobytes()
            evictions += run.evictions.sum()
            if name in NEVER_EVICT and not predicted:
                assert run.evictions.sum() == 0
    assert name in NEVER_EVICT or evictions > 0


@pytest.mark.parametrize("name", AHEAD)
def test_nobody_is_evicted_where_outputs_are_known(name):
    """What looks ahead to everybody's end keeps its word, for prompts of one chunk and of several."""
    for seed in range(6):
        some = workload(seed)
        some = some._replace(predicted=some.output)
        policy, knobs = prepared(name, 400)
        run = simulate(some, policy, knobs, MODEL, core.serving(25, 16, 0.0), check=True)
        assert run.evictions.sum() == 0
        assert run.peak_blocks >= 20


@pytest.mark.parametrize("name", SPECS)
def test_nothing_to_serve_nothing_planned(name):
    ask = asked(name)
    assert ask() == ([], [], INF)
    assert ask(draining=True) == ([], [], INF)


@pytest.mark.parametrize("name", SPECS)
def test_a_plan_without_tokens_leaves_no_trace(name):
    ask, fresh = asked(name), asked(name)
    waiting = [Request(20), Request(20)]
    assert ask(waiting, free=0) == ([], [], INF)
    assert ask(waiting) == fresh(waiting)


@pytest.mark.parametrize("name", SPECS)
def test_an_empty_server_admits(name):
    """Whatever is allowed or predicted: one that is alone fits."""
    assert asked(name)([Request(20, max_output=10**6, predicted=10**6)], free=3).admitted == [(0, 20)]


def test_what_lies_beyond_the_window_changes_no_plan():
    ask, cut = asked("sorted_f"), asked("sorted_f")
    depth = ask.policy.queue_depth(ask.knobs)
    queue = [Request(20, max_output=100 - i) for i in range(30)]
    assert (depth, ask(queue, [decoding(3)])) == (9, cut(queue[:depth], [decoding(3)]))


@pytest.mark.parametrize("name", SPECS)
def test_decisions_do_not_anticipate(name):
    """Outputs that are not revealed by time t may be longer: everything up to t stays the same, to the last bit."""
    policy, knobs = prepared(name, 400)
    for seed in range(3):
        some = workload(seed)
        base = simulate(some, policy, knobs, MODEL, core.serving(25), log=True)
        ends = base.log[:, 0] + base.log[:, 1]
        t = ends[len(ends) // 3]
        output = np.where(base.completion > t, LONGEST, some.output)
        other = simulate(some._replace(output=output), policy, knobs, MODEL, core.serving(25), log=True)
        until = np.count_nonzero(ends <= t)
        assert other.log[:until].tobytes() == base.log[:until].tobytes()
        assert not np.array_equal(base.completion, other.completion)


def test_sglang_in_vidur():
    """A policy that ships with evictions of its own, request by request."""
    pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
    from fluidwait.engines.vidur import simulate_vidur

    policy, knobs = prepared("sglang", 400)
    some, semantics = workload(4), core.serving(25)
    ours, theirs = (engine(some, policy, knobs, MODEL, semantics) for engine in (simulate, simulate_vidur))
    assert ours.evictions.sum() > 0 and ours.evictions.tolist() == theirs.evictions.tolist()
    assert np.abs(ours.completion - theirs.completion).max() <= 1e-9


# --- SGLang -----------------------------------------------------------------------------------------------------------


def test_sglang_counts_a_share_of_what_is_to_come():
    """Two running requests may generate 50 more each; at first .7 of that counts, of the newcomer's 40 all.

    80 blocks of 1 token are free: 80 - .7 * 100 = 10 < 5 + 40 + 1. With 120 it is 50 > 46.
    """
    ask = asked("sglang")
    running = [decoding(50, max_output=100, held=70), decoding(50, max_output=100, held=70)]
    one = {"block_size": 1}
    assert ask([Request(5, max_output=40)], running, free=80, **one) == ([1, 1], [], INF)
    assert ask([Request(5, max_output=40)], running, free=120, **one) == ([0, 0], [(0, 5)], INF)  # prefills first
    clipped = asked("sglang", clip=10)
    assert clipped([Request(5, max_output=40)], running, free=31, **one).admitted == [(0, 5)]  # 31 - 14 > 16


def test_sglangs_share_falls_and_is_reset():
    """600 decode steps take it from .7 to .098; a retraction sets it by what was generated; idle, it starts anew."""
    ask, unit = asked("sglang"), 1e12
    running = [decoding(50, max_output=100, held=70)]
    for _ in range(300):
        ask([], running)
    assert ask.memory[0] / unit == pytest.approx(0.7 - 0.602 / 2)
    for _ in range(400):
        ask([], running)
    assert ask.memory[0] / unit == pytest.approx(0.098)
    ask([], running, evicted=1)
    assert ask.memory[0] / unit == pytest.approx((50 + 20) / 101)
    ask([Request(5)], [])
    assert ask.memory[0] / unit == pytest.approx(0.7)


def test_sglang_cuts_the_last_prompt_and_goes_on_with_it():
    decision = asked("sglang")([Request(50), Request(50)], [decoding(3)])
    assert (decision.tokens, decision.admitted) == ([0], [(0, 50), (1, 10)])
    half = Request(100, cached=30, held=7)
    decision = asked("sglang")([Request(50)], [half, decoding(3)])
    assert (decision.tokens, decision.admitted) == ([60, 0], [])


def test_sglang_retracts_the_fewest_outputs_then_the_longest_prompt():
    ask = asked("sglang")
    full = [decoding(5, prompt=12), decoding(2, prompt=15), decoding(2, prompt=31), decoding(9, prompt=8)]
    assert gone(ask, full, free=0) == 2
    assert gone(ask, full, free=4) == -1
    assert gone(ask, full[:1], free=0) == 0
    assert ask.policy.rejoins_last(ask.knobs)


def gone(ask, resident, free) -> int:
    """Who must go when every resident decodes."""
    view = view_of(resident, free)
    out = Plan(*(np.ones(len(resident) + 1, dtype=np.int64) for _ in range(3)))
    return int(ask.victim(view, ask.knobs, out))


def view_of(resident, free) -> View:
    def column(of):
        return np.array([of(r) for r in resident])

    times, nobody = np.zeros(len(resident)), np.zeros(0, dtype=np.uint64)
    columns = [
        column(lambda r: r.kind),
        column(lambda r: r.goal or r.prompt),
        column(lambda r: r.cached),
        column(lambda r: r.generated),
        column(lambda r: -(-r.cached // 16)),
        column(lambda r: r.max_output),
        column(lambda r: r.predicted),
    ]
    order = np.arange(len(resident), dtype=np.uint64)
    return View(0.0, False, 0, nobody, order, times, times, *columns, free, 0, 16)


# --- TensorRT-LLM -----------------------------------------------------------------------------------------------------


def test_trtllm_reserves_what_clients_allow():
    """The running request of 16 tokens, one of 33 generated, ends at 48: it takes two blocks more; the next one 3."""
    running = [decoding(1, max_output=33, held=1)]
    newcomer = [Request(16, max_output=32)]
    assert asked("trtllm")(newcomer, running, free=4).admitted == []
    assert asked("trtllm")(newcomer, running, free=5).admitted == [(0, 16)]
    greedy = asked("trtllm max_utilization")
    assert greedy(newcomer, running, free=2).admitted == [(0, 16)]  # one block for the decode, one for the prompt
    assert greedy(newcomer, running, free=1).admitted == []


def test_trtllm_cuts_prompts_only_where_it_may():
    assert asked("trtllm")([Request(300), Request(200)]).admitted == [(0, 300)]
    assert asked("trtllm", chunked=True)([Request(300), Request(200)]).admitted == [(0, 300), (1, 100)]


def test_trtllm_waits_for_a_full_batch_or_a_few_iterations():
    """Half of 400 tokens, or 9 iterations; never while nothing decodes."""
    ask = asked("trtllm waiting")
    held = [ask([Request(50)], [decoding(3)]).admitted for _ in range(10)]
    assert held == [[]] * 9 + [[(0, 50)]]
    assert ask([Request(50)], [decoding(3)]).admitted == []
    assert len(ask([Request(50)] * 4, [decoding(3)]).admitted) == 4
    assert asked("trtllm waiting")([Request(50)]).admitted == [(0, 50)]


# --- LightLLM ---------------------------------------------------------------------------------------------------------


def test_lightllm_admits_while_the_peak_fits():
    """Blocks of 1 token. Inside: 20 held, 10 to come; the newcomer: 5 and 30.

    Sorted: (30, 5), (10, 20): the peak is max(30 + 5, 2 * 10 + 25) = 45 of memory, of which 20 are held.
    """
    running, newcomer = [Request(16, 20, 5, held=20, predicted=15)], [Request(5, predicted=30)]
    for free, admitted in ((25, [(0, 5)]), (24, [])):
        ask = asked("lightllm", round_steps=0)
        assert ask(newcomer, running, free=free, block_size=1).admitted == admitted


def test_lightllm_has_a_round_every_few_decodes():
    ask = asked("lightllm")
    decisions = [ask([Request(20)], [decoding(3)]) for _ in range(8)]
    assert [d.admitted for d in decisions] == [[]] * 6 + [[(0, 20)]] + [[]]
    assert [d.tokens for d in decisions] == [[1]] * 6 + [[0]] + [[1]]


def test_lightllm_expects_what_the_past_says():
    """Outputs of 10, 40, 120 with shares .5, .3, .2: 41 on average, 72 beyond 10 tokens, 120 beyond 40."""
    expected = asked("lightllm").knobs.expected
    assert len(expected) == LONGEST
    assert (expected[:10] == 41).all() and (expected[10:40] == 72).all() and (expected[40:] == 120).all()


# --- Text Generation Inference and LMDeploy ---------------------------------------------------------------------------


def test_tgi_waits_for_company_up_to_20_steps():
    """Ten run: a batch needs three. After 20 decode steps one is enough, and a decode follows every prefill."""
    ask, ten = asked("tgi", max_requests=40), [decoding(3, max_output=40)] * 10
    assert ask([Request(20)]).admitted == [(0, 20)]  # nobody runs
    assert ask([Request(20)] * 5, ten) == ([1] * 10, [], INF)  # a decode first
    assert ask([Request(20)] * 2, ten).admitted == []
    assert len(ask([Request(20)] * 3, ten).admitted) == 3
    waits = [len(ask([Request(20)], ten).admitted) for _ in range(25)]
    assert waits.index(1) == 19  # counted from 1 with the prefills, as the engine does


def test_tgi_reserves_and_limits_its_batches():
    ask = asked("tgi")
    assert [i for i, _ in ask([Request(40)] * 4).admitted] == [0, 1]  # 90 tokens
    assert asked("tgi")([Request(200), Request(5)]).admitted == [(0, 200)]
    two = [Request(16, max_output=32), Request(16, max_output=32)]
    assert len(asked("tgi")(two, free=5).admitted) == 1
    assert len(asked("tgi")(two, free=6).admitted) == 2


def test_lmdeploy_prefills_when_it_is_time():
    """Half of 12 slots; 90 tokens that wait; 16 decode steps."""
    few, many = [decoding(3)] * 5, [decoding(3)] * 6
    assert asked("lmdeploy")([Request(20)], few) == ([0] * 5, [(0, 20)], INF)
    assert asked("lmdeploy")([Request(20)], many) == ([1] * 6, [], INF)
    assert len(asked("lmdeploy")([Request(45)] * 2, many).admitted) == 2
    ask = asked("lmdeploy")
    assert [len(ask([Request(20)], many).admitted) for _ in range(18)] == [0] * 16 + [1, 0]
    assert asked("lmdeploy")([Request(20)], few, free=1).tokens == [1] * 5  # it does not fit: decodes go on


# --- papers -----------------------------------------------------------------------------------------------------------


def test_ppas_shares_a_step_among_prompts_only_if_some_decode():
    ask = asked("ppas")
    assert ask([Request(80)], [decoding(3)]).admitted == [(0, 80)]
    assert ask([Request(80)] * 2, [decoding(3)]).admitted == [(0, 30)]
    assert ask([Request(80)] * 2).admitted == [(0, 80), (1, 10)]
    assert ask([Request(80)], [decoding(3), Request(80, 20, held=5)]).tokens == [1, 30]


def test_mcsf_takes_the_shortest_while_everybody_fits_to_the_end():
    """Blocks of 1 token, one of them spare. Prompts of 10, outputs of 30, 5, 12; 36 are enough for the first two.

    (5 + 1, 10) and (12 + 1, 10): when the shorter one ends both hold 10 + 6, when the other ends it holds 23: 32 in
    all. With the third, three hold 10 + 6 when the first ends, two 10 + 13 = 46 when the second does: 48.
    """
    queue = [Request(10, predicted=30), Request(10, predicted=5), Request(10, predicted=12)]
    ask = asked("mcsf")
    for free, who in ((33, [1, 2]), (32, [1]), (48, [1, 2]), (49, [0, 1, 2])):
        assert [i for i, _ in ask(queue, free=free, block_size=1).admitted] == who


def test_sorted_f_prefers_many_short_ones():
    """F of {5}: 5, of {5, 12}: 17 / 4, of all three: 47 / 9 > 17 / 4. The first set goes first, then the rest."""
    queue = [Request(10, predicted=30), Request(10, predicted=5), Request(10, predicted=12)]
    ask = asked("sorted_f")
    for free, who in ((33, [1, 2]), (48, [1, 2]), (49, [0, 1, 2])):
        assert [i for i, _ in ask(queue, free=free, block_size=1).admitted] == who


def test_sorted_f_passes_over_a_prompt_that_leaves_no_room_for_a_set():
    """The shortest output is 4 with a prompt of 10, then 5 with one of 60 of 80 tokens, then 6 with one of 10.

    MC-SF takes the first two as far as they fit; the best set is the first and the third.
    """
    queue = [Request(60, predicted=5), Request(10, predicted=4), Request(10, predicted=6), Request(10, predicted=7)]
    who = {name: [i for i, _ in asked(name)(queue, free=76, block_size=1).admitted] for name in AHEAD}
    assert who == {"mcsf": [1], "sorted_f": [1, 2, 3]}


def test_svf_orders_by_volume():
    """s o + o (o + 1) / 2: 10 * 12 + 78 = 198, 100 * 2 + 3 = 203, 10 * 5 + 15 = 65."""
    queue = [Request(10, predicted=12), Request(100, predicted=2), Request(10, predicted=5)]
    ask = asked("svf")
    assert ask(queue, free=2).admitted == [(0, 10), (2, 10)]
    assert ask(queue).admitted == [(0, 10), (1, 40), (2, 10)]
    assert ask(queue, free=1).admitted == [(2, 10)]


def test_a_min_takes_lower_bounds_and_raises_them():
    """Predictions of 40 with sd .5 and two deviations: 40 / e = 14. Who has generated 20 is taken for 21."""
    policy, knobs = prepared("a_min", 400, 0.5)
    assert knobs.share == pytest.approx(math.exp(-1)) and knobs.shortest == 10
    ask = asked("a_min")
    ask.knobs = knobs
    residents = [decoding(20, predicted=40), decoding(3, predicted=40), decoding(3, predicted=90), decoding(14)]
    assert gone(ask, residents, free=0) == 1  # 21, 14, 33, 15
    assert gone(ask, residents[2:], free=0) == 1
    assert gone(ask, residents, free=9) == -1
    queue = [Request(10, predicted=90), Request(10, predicted=40)]
    assert [i for i, _ in ask(queue, free=27, block_size=1).admitted] == [1]


def test_flow_control_starts_so_many_a_step():
    """2.5 a step: 2, 3, 2, 3. 'memory' is share C / w."""
    ask = asked("flow_control", per_step=2.5, token_budget=500)
    assert [len(ask([Request(5)] * 9, [decoding(3)]).admitted) for _ in range(4)] == [2, 3, 2, 3]
    slow = asked("flow_control", per_step=0.25)
    assert [len(slow([Request(5)], [decoding(3)]).admitted) for _ in range(4)] == [0, 0, 0, 1]
    w = LAW.share @ (LAW.prompt * LAW.output + LAW.output * (LAW.output + 1) / 2)
    assert prepared("flow_control", 400)[1].per_step == pytest.approx(0.9 * 400 / w)


def test_eb_plus_prefills_when_enough_have_left():
    """theta = .3 of 12: with 9 in service 3 * .7 < .3 * 9; with 8 prefills begin, and end with those that may enter."""
    ask = asked("eb_plus")
    assert ask([Request(20)] * 9, [decoding(3)] * 9) == ([1] * 9, [], INF)
    assert ask([Request(20)] * 9, [decoding(3)] * 8) == ([0] * 8, [(0, 20), (1, 20), (2, 20)], INF)
    assert ask.memory[0] == 1  # one more, for which there were no tokens
    assert ask([Request(20)] * 6, [decoding(3)] * 11) == ([0] * 11, [(0, 20)], INF)
    assert ask([Request(20)] * 5, [decoding(3)] * 12) == ([1] * 12, [], INF)
    mixed = asked("eb_plus", mode="mixed")
    assert mixed([Request(20)] * 9, [decoding(3)] * 9) == ([1] * 9, [(0, 20), (1, 20), (2, 11)], INF)


def test_eb_plus_chooses_by_the_time_model():
    """theta solves its equation; phases pay where a decode beside a prefill costs more, not where tokens are free."""
    times = load_hardware("a100-80g_llama-2-7b").time_model()
    context = Context(law([100], prompt=500), 1.0, times, (0.01, 1e-7), 100_000, True)
    policy = load_policy({"policy": "eb_plus"})
    theta = policy.prepare(context).threshold
    assert 0.01 < theta < 0.8
    free = context._replace(time_model=linear(0.01, 0.0))  # every step takes as long: the more it does the better
    assert not policy.prepare(free).exclusive
    root = policy.prepare(free).threshold
    assert root / (1 - root) + math.log(1 - root) == pytest.approx(1 / 100, abs=1e-6)
    assert policy.prepare(context._replace(time_model=_with_attention(1e-9))).exclusive is False
    assert policy.prepare(context._replace(time_model=_with_attention(1e-6))).exclusive is True


def _with_attention(beside_a_prefill: float) -> TimeModel:
    """1 ms a step and 10 us a token; a decode reads a KV token in 1 ns alone, and in so many s beside a prefill."""
    decodes, row = np.arange(257), np.array([0.0, 0, 0, 0, 0, beside_a_prefill])
    lengths = np.array([1.0, 10_000.0])
    return linear(0.001, 0.0)._replace(
        compute_slope=1e-5,
        alone=decodes[:, None] * lengths * 1e-9,
        alone_lengths=lengths,
        alone_uneven=np.zeros(257),
        beside=np.tile(row, (257, 1)),
    )


def test_watermark_admission_leaves_memory_free():
    ask = Asked({"policy": "fluid_budget", "batch_tokens": 2048, "watermark": 0.02})  # of 16,000 tokens: 20 blocks
    assert ask([Request(16)], [decoding(3)], free=20).admitted == []
    assert ask([Request(16)], [decoding(3)], free=21).admitted == [(0, 16)]
    policy = load_policy("vllm_watermark")
    assert (policy.settings.batch_tokens, policy.settings.watermark) == (2048, 0.02)
