"""A plan that does not bind leaves vLLM's schedule as it is: step by step beside vLLM's own scheduler.

The plans here have no gate and no caps below the engine's, so that whatever differs is a fault.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import random
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

import fake_engine  # noqa: E402
from fake_engine import BLOCK_SIZE, FakeEngine, make_request, make_scheduler  # noqa: E402
from loose_plans import CHUNKED, LIMITS, NESTED, SEATS, request  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.interface import PauseState  # noqa: E402
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec  # noqa: E402
from vllm.v1.request import Request, RequestStatus  # noqa: E402

from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.engines.vllm.load.engine import engine_version
from fluidwait.engines.vllm_clock import scheduler as scheduler_parts  # noqa: E402

OLD = engine_version().startswith(("0.20.", "0.22."))
LOSES_A_TOKEN = engine_version().startswith("0.20.")  # on a reset of the cache, of requests with none in flight too
PLANS = [CHUNKED, NESTED]
POLICIES = pytest.mark.parametrize("entry", PLANS, ids=["wait_chunked", "nested_wait"])
MODES = pytest.mark.parametrize(
    "entry", [*PLANS, LIMITS, "auto"], ids=["wait_chunked", "nested_wait", "fluid_budget", "auto, still learning"]
)
RANKS = pytest.mark.parametrize("ranks", ["fcfs", "priority"])
ACCEPTING = SimpleNamespace(accept_tokens=lambda name, tokens: True, is_terminated=lambda: False)


def with_settings(entry: dict, **changes) -> dict:
    return entry | {"settings": entry["settings"] | changes}


class Twins:
    """vLLM's own scheduler and the plug-in, which get the same requests and take the same steps."""

    def __init__(self, options, entry, depth: int = 2, **more):
        more = {"max_num_seqs": SEATS, "async_scheduling": depth > 1} | more
        self.engines = [
            FakeEngine(make_scheduler(options, AsyncScheduler, **more), depth),
            FakeEngine(make_scheduler(options, WaitScheduler, fluidwait=entry, **more), depth),
        ]

    @property
    def stock(self) -> FakeEngine:
        return self.engines[0]

    def both(self, act) -> None:
        for engine in self.engines:
            act(engine)

    def add(self, make) -> None:
        self.both(lambda engine: engine.add(make()))

    def step(self) -> dict[str, int]:
        planned, ours = [engine.step() for engine in self.engines]
        assert list(ours.items()) == list(planned.items()), self.stock.steps
        assert state(self.engines[1].scheduler) == state(self.stock.scheduler), self.stock.steps
        assert told(self.engines[1]) == told(self.stock), self.stock.steps
        return planned

    def drain(self, most: int = 20_000) -> None:
        while self.stock.scheduler.has_requests() or self.stock.flights:
            self.step()
            most -= 1
            assert most > 0
        assert self.engines[0].tokens == self.engines[1].tokens
        assert self.engines[0].reasons == self.engines[1].reasons


def state(scheduler) -> dict:
    """What vLLM knows after a step, all that its statistics say included."""
    kv, waiting = scheduler.kv_cache_manager, list(scheduler.waiting)
    if hasattr(scheduler, "skipped_waiting"):  # older releases keep those that cannot start in a queue of their own
        waiting = sorted([*waiting, *scheduler.skipped_waiting], key=lambda r: r.request_id)
    return {
        "running": [r.request_id for r in scheduler.running],
        "waiting": [(r.request_id, r.status == RequestStatus.PREEMPTED) for r in waiting],
        "kv_holding": [r.request_id for r in getattr(scheduler, "kv_holding_waiting", ())],
        "deferred": {r.request_id for r in getattr(scheduler, "deferred_waiting", ())},
        "counts": scheduler.get_request_counts(),
        "preempted": {name: r.num_preemptions for name, r in scheduler.requests.items()},
        "free": kv.block_pool.get_num_free_blocks(),
        "bound": getattr(scheduler, "prefill_capacity_bound", None),
    }


def told(engine: FakeEngine) -> tuple:
    """What vLLM answered last, and its statistics: requests, KV usage and the hits of the prefix cache."""
    answers = [
        (a.request_id, a.new_token_ids, str(a.finish_reason), a.stop_reason, getattr(a, "num_cached_tokens", None))
        for a in engine.answers
    ]
    stats = engine.stats
    if OLD and stats:  # with priorities the plug-in puts those that were passed over back among the waiting ones
        waiting = stats.num_waiting_reqs + stats.num_skipped_waiting_reqs
        # these releases count a look into the prefix cache also for one who then does not enter, whom a plan holds
        stats = dataclasses.replace(
            stats, num_waiting_reqs=waiting, num_skipped_waiting_reqs=0, prefix_cache_stats=None
        )
    return answers, stats


class Traffic:
    """Random requests of every kind, and what may happen to them."""

    def __init__(self, twins: Twins, seed: int, **features):
        self.twins, self.random, self.features = twins, random.Random(seed), features
        self.sent = 0
        self.ungrammatical: list[list[Future]] = []
        self.sessions: list[str] = []
        self.kinds: set[str] = set()

    def happen(self) -> None:
        """What comes between two steps."""
        chance, twins, names = self.random, self.twins, list(self.twins.stock.scheduler.requests)
        for _ in range(chance.choice([0, 0, 1, 2, 5])):
            self.send()
        if names and chance.random() < 0.05:
            name = chance.choice(names)
            twins.both(lambda engine: engine.abort(name))
            self.sessions = [other for other in self.sessions if other != name]
        if self.ungrammatical and chance.random() < 0.3:
            self.compile(self.ungrammatical.pop(chance.randrange(len(self.ungrammatical))))
        if self.sessions and chance.random() < 0.3:
            self.go_on(chance.choice(self.sessions))
        holding = getattr(twins.stock.scheduler, "kv_holding_waiting", ())
        if chance.random() < 0.02 and not holding and not LOSES_A_TOKEN:
            twins.both(lambda engine: engine.preempt())
        if chance.random() < 0.01:
            pause = chance.choice(list(PauseState))
            twins.both(lambda engine: engine.scheduler.set_pause_state(pause))
        elif chance.random() < 0.3:
            twins.both(lambda engine: engine.scheduler.set_pause_state(PauseState.UNPAUSED))

    def end(self) -> None:
        self.twins.both(lambda engine: engine.scheduler.set_pause_state(PauseState.UNPAUSED))
        for futures in self.ungrammatical:
            self.compile(futures)
        for name in list(self.sessions):
            self.go_on(name, last=True)
        self.twins.drain()

    @staticmethod
    def compile(futures: list[Future]) -> None:
        for future in futures:
            future.set_result(ACCEPTING)

    def go_on(self, name: str, last: bool = False) -> None:
        """The session gets another input, or is closed; what was generated for it is answered first."""
        last = last or self.random.random() < 0.3
        if last:
            self.sessions.remove(name)
        if name not in self.twins.stock.scheduler.requests:
            return
        prompt, output = self.random.randint(1, 40), self.random.randint(1, 20)
        for engine in self.twins.engines:
            engine.scheduler.add_request(request(name, prompt, output, resumable=not last))

    def send(self) -> None:
        chance, name = self.random, f"r{self.sent}"
        self.sent += 1
        kinds = ["plain"] * 6 + ["stops", "shares", "grammar"] + ["image"] * self.features.get("images", 0)
        if hasattr(
            self.twins.stock.scheduler, "kv_holding_waiting"
        ):  # older releases let idle sessions strand everybody
            kinds.append("session")
        kind = chance.choice(kinds)
        self.kinds.add(kind)
        prompt, output = chance.choice([1, 5, 30, 60, 150]), chance.choice([1, 2, 10, 40])
        what = {"priority": chance.randrange(3), "arrival": float(self.sent)}
        if kind == "stops":
            what["stop"] = [chance.randrange(3, 250) for _ in range(20)]
        elif kind == "shares":
            what["tokens"] = [7] * prompt
        elif kind == "image":
            what["images"] = [f"{name}-{i}" for i in range(chance.randint(1, 3))]
            prompt += 60
        elif kind == "session":
            what["resumable"] = True
            self.sessions.append(name)
        futures: list[Future] = []

        def make() -> Request:
            made = request(name, prompt, output, grammar=kind == "grammar", **what)
            if kind == "grammar":
                futures.append(Future())
                made.structured_output_request.grammar = futures[-1]
            return made

        self.twins.add(make)
        if futures:
            self.ungrammatical.append(futures)


SETUPS = {
    "memory is short": {"blocks": 30},
    "memory is short, no prefix caching": {"blocks": 30, "enable_prefix_caching": False},
    "plenty of memory, few tokens per batch": {"blocks": 2000, "max_num_batched_tokens": 64},
    "few tokens per batch, memory is short": {"blocks": 34, "max_num_batched_tokens": 48},
    "long prefills are cut": {"blocks": 200, "long_prefill_token_threshold": 32, "max_num_batched_tokens": 96},
    "long prefills are cut, not below a fair share": {
        "blocks": 200,
        "long_prefill_token_threshold": 16,
        "long_prefill_token_threshold_adaptive": True,
        "max_num_batched_tokens": 128,
    },
    "fewer in service than the engine has room for": {"blocks": 60, "max_num_active_seqs": 5},
    "whole prompts": {"blocks": 60, "enable_chunked_prefill": False, "max_num_batched_tokens": 1024},
    "vLLM's own watermark": {"blocks": 40, "watermark": 0.1},
    "no reserve for the prompt": {"blocks": 40, "scheduler_reserve_full_isl": False, "max_num_batched_tokens": 64},
}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("depth", [1, 2], ids=["sync", "async"])
@RANKS
@MODES
def test_random_requests_are_scheduled_as_by_vllm(engine_options, entry, ranks, depth, setup):
    if missing := SETUPS[setup].keys() - {"blocks"} - EngineArgs.__dataclass_fields__.keys():
        pytest.skip(f"this vLLM release has no {', '.join(missing)}")
    more = {"enable_prefix_caching": True, "max_num_batched_tokens": 256} | SETUPS[setup]
    twins = Twins(engine_options, entry, depth, scheduling_policy=ranks, **more)
    run_random(twins, seed=7 * depth + len(ranks), steps=120)


def run_random(twins: Twins, seed: int, steps: int, **features) -> Traffic:
    traffic = Traffic(twins, seed, **features)
    for _ in range(steps):
        traffic.happen()
        twins.step()
    traffic.end()
    return traffic


@RANKS
@MODES
def test_images_are_scheduled_as_by_vllm(engine_options, entry, ranks):
    """Requests that wait for a place in the encoder's budget or its cache get no tokens although their plan says so."""
    more = {"blocks": 60, "max_num_batched_tokens": 128, "enable_prefix_caching": True}
    twins = Twins(engine_options, entry, scheduling_policy=ranks, **more)
    for engine in twins.engines:
        engine.scheduler.max_num_encoder_input_tokens = 25
        engine.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=40)
    assert "image" in run_random(twins, seed=3, steps=120, images=6).kinds


@pytest.mark.parametrize("blocks", [36, 60])
@pytest.mark.parametrize("caching", [False, True], ids=["", "prefix caching"])
@MODES
def test_layers_of_two_kinds_are_scheduled_as_by_vllm(engine_options, monkeypatch, entry, caching, blocks):
    """Layers with a sliding window have blocks of their own, and give those back that have left the window."""

    def two_groups(num_blocks, kv_cache_tensors, kv_cache_groups):
        full = kv_cache_groups[0].kv_cache_spec
        fields = {name: getattr(full, name) for name in ("block_size", "num_kv_heads", "head_size", "dtype")}
        window = KVCacheGroupSpec(["window"], SlidingWindowSpec(**fields, sliding_window=32))
        return KVCacheConfig(num_blocks, kv_cache_tensors, [*kv_cache_groups, window])

    monkeypatch.setattr(scheduler_parts, "KVCacheConfig", two_groups)
    twins = Twins(engine_options, entry, blocks=blocks, max_num_batched_tokens=128, enable_prefix_caching=caching)
    assert len(twins.stock.scheduler.kv_cache_config.kv_cache_groups) == 2
    run_random(twins, seed=13, steps=150)


@RANKS
@MODES
def test_blocks_that_are_freed_late_are_seen_as_by_vllm(engine_options, entry, ranks):
    """As behind a KV connector: a block comes back when the step that may still write to it has ended."""
    twins = Twins(engine_options, entry, scheduling_policy=ranks, blocks=30, enable_prefix_caching=True)
    if not hasattr(twins.stock.scheduler, "deferred_frees"):
        pytest.skip("this vLLM release frees all blocks at once")
    late = []
    for engine in twins.engines:
        engine.scheduler.defer_block_free = True
    traffic = Traffic(twins, seed=11)
    for _ in range(150):
        traffic.happen()
        late.append(len(twins.stock.scheduler.deferred_frees))
        twins.step()
    traffic.end()
    assert sum(late) > 0


@MODES
def test_prefills_that_are_put_off_are_put_off_as_by_vllm(engine_options, entry):
    """What vLLM keeps in mind for data-parallel prefills is the same, and so is what follows from it."""
    if "throttle_prefills" not in inspect.signature(AsyncScheduler.schedule).parameters:
        pytest.skip("schedule() of this vLLM release has no throttle_prefills, which 0.32 has")
    twins = Twins(engine_options, entry, blocks=60, max_num_batched_tokens=64)
    for engine in twins.engines:
        plain, turns = engine.scheduler.schedule, itertools.count()
        engine.scheduler.schedule = lambda plain=plain, turns=turns: plain(throttle_prefills=next(turns) % 4 > 0)
    run_random(twins, seed=5, steps=150)


@pytest.mark.parametrize("blocked", [1, 2, 40])
@pytest.mark.parametrize("kind", ["grammar", "session"])
@RANKS
def test_those_that_cannot_start_hold_up_nobody(engine_options, ranks, kind, blocked):
    """With a plan that admits one request at a time, five ones start at the steps at which they would alone."""
    entry = {"policy": "nested_wait", "settings": {"thresholds": [1], "boundaries": [64], "max_wait": 0.0}}

    def starts(blocked: int) -> list[int]:
        more = {"scheduling_policy": ranks, "max_num_seqs": 64}
        engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry, **more))
        for i in range(blocked):
            guided = kind == "grammar"
            made = request(f"blocked{i}", 20, 3, arrival=float(i), grammar=guided, resumable=not guided)
            if kind == "grammar":
                made.structured_output_request.grammar = Future()
            engine.add(made)
        if kind == "session":  # they answer their first input, then wait for the next, at the head of the queue
            while any(r.status != RequestStatus.WAITING_FOR_STREAMING_REQ for r in engine.scheduler.requests.values()):
                engine.step()
            for made in list(engine.scheduler.requests.values()) if not OLD else ():  # where they are already
                made.num_computed_tokens = 0  # as after a preemption: it holds no blocks
                engine.scheduler.kv_cache_manager.free(made)
                engine.scheduler.kv_holding_waiting.remove_request(made)
                engine.scheduler.waiting.add_request(made)
        for i in range(5):
            engine.add(request(f"r{i}", 20, 30, arrival=100.0 + i))
        first: dict[str, int] = {}
        for step in range(20):
            for name in engine.step():
                first.setdefault(name, step)
        return [first[f"r{i}"] for i in range(5)]

    assert starts(blocked) == starts(0)


def test_those_that_cannot_start_hold_up_nobody_as_by_vllm(engine_options):
    """Five requests behind two that wait for a grammar start at once when the plan does not bind."""
    twins = Twins(engine_options, CHUNKED)
    futures: list[Future] = []

    def blocked() -> Request:
        made = request(f"grammar{len(futures) // 2}", 20, 20, grammar=True)
        futures.append(Future())
        made.structured_output_request.grammar = futures[-1]
        return made

    for _ in range(2):
        twins.add(blocked)
    for i in range(5):
        twins.add(lambda i=i: request(f"r{i}", 20, 20))
    assert list(twins.step()) == [f"r{i}" for i in range(5)]
    for future in futures:
        future.set_result(ACCEPTING)
    assert {"grammar0", "grammar1"} <= set(twins.step())
    twins.drain()


@pytest.mark.skipif(OLD, reason="in this vLLM release a grammar that fails ends the engine")
@POLICIES
def test_a_grammar_that_failed_ends_its_request_alone(engine_options, entry):
    """Also while the plan holds everybody: its error need not wait for room, and nobody waits for it."""
    held = entry | {"settings": entry["settings"] | ({"in_service": 1} if entry is CHUNKED else {"thresholds": [1]})}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=held))
    engine.add(request("inside", 20, 60))
    engine.step()
    engine.add(request("held", 20, 60))
    wrong = request("wrong", 20, 60, grammar=True)
    wrong.structured_output_request.grammar = failed = Future()
    failed.set_exception(ValueError("no such grammar"))
    engine.add(wrong)
    for i in range(3):
        engine.add(request(f"behind{i}", 20, 60))
    for _ in range(6):
        engine.step()
    assert engine.reasons == {"wrong": "error"}
    engine.drain()
    assert engine.tokens == {"inside": 60, "held": 60, "wrong": 0} | {f"behind{i}": 60 for i in range(3)}


@pytest.mark.skipif(OLD, reason="this vLLM release itself holds a session to the limits of its first input")
@POLICIES
def test_a_session_that_asks_for_more_gets_it(engine_options, entry):
    """The limits of a streaming session are those of its latest input, and its time between inputs is nobody's hold."""
    paused = {"in_service": 4, "boundaries": [5], "chunk": 16} if entry is CHUNKED else {"thresholds": [4]}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=with_settings(entry, **paused)))
    for i in range(3):
        engine.add(request(f"other{i}", 50, 200))
    engine.add(request("session", 20, 2, resumable=True))
    for _ in range(12):
        engine.step()
    assert engine.tokens["session"] == 2
    engine.scheduler.add_request(request("session", 20, 30, resumable=True))
    for _ in range(45):
        engine.step()
    assert engine.tokens["session"] == 32
    engine.scheduler.add_request(request("session", 1, 1))
    engine.drain()
    assert engine.scheduler.gate.book.table.slot_of == {}


def test_an_idle_session_leaves_the_token_limit_in_force(engine_options):
    entry = {
        "policy": "wait_chunked",
        "settings": {"in_service": 8, "boundaries": [99], "chunk": 64, "batch_tokens": 40, "max_wait": 0.0},
    }
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry))
    engine.add(request("session", 20, 2, resumable=True))
    for _ in range(5):
        engine.step()
    assert engine.scheduler.requests["session"].status == RequestStatus.WAITING_FOR_STREAMING_REQ
    for i in range(6):
        engine.add(request(f"r{i}", 100, 5))
    assert max(sum(engine.step().values()) for _ in range(12)) == 40


def test_a_name_may_come_again_at_once(engine_options):
    """The slot of a request that ended since the last step is not handed to the next one of its name."""
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=NESTED))
    engine.add(request("name", 20, 30))
    engine.step()
    engine.abort("name")
    second = request("name", 40, 5)
    engine.reasons.clear()
    engine.add(second)
    engine.step()
    table = engine.scheduler.gate.book.table
    assert table.request[table.slot_of["name"]] is second
    engine.drain()
    assert engine.tokens["name"] == 5


@pytest.mark.parametrize("attribute", ["class", "instance"])
def test_a_scheduler_without_its_gate_is_vllms(engine_options, attribute):
    """The constructor failed, or a test double never ran it: nothing of ours may stand in the way of a shutdown."""
    if attribute == "class":
        double = WaitScheduler.__new__(WaitScheduler)
        AsyncScheduler.__init__(double, **parts(engine_options))
    else:
        double = make_scheduler(engine_options, WaitScheduler, fluidwait=NESTED)
        double.gate.close()
        double.gate = None
    engine = FakeEngine(double)
    engine.add(request("r", 20, 5))
    engine.step()
    engine.preempt()
    engine.drain()
    assert engine.tokens == {"r": 5}
    double.shutdown()


def parts(options) -> dict:
    """What a scheduler is made of."""
    whole = make_scheduler(options)
    return {
        "vllm_config": whole.vllm_config,
        "kv_cache_config": whole.kv_cache_config,
        "structured_output_manager": whole.structured_output_manager,
        "block_size": BLOCK_SIZE,
    }


# --- priorities -------------------------------------------------------------------------------------------------------

TIGHT = {
    "wait_chunked": {"in_service": 8, "boundaries": [20], "chunk": 32, "max_wait": 0.01},
    "nested_wait": {"thresholds": [4, 2], "boundaries": [5, 1024], "max_wait": 0.01},
}


@pytest.mark.parametrize(
    "entry", [CHUNKED, NESTED, *({"policy": p, "settings": s | {"max_wait": 0.0}} for p, s in TIGHT.items())]
)
def test_the_low_one_makes_room_for_the_high_one(engine_options, monkeypatch, entry):
    """Memory for four blocks of 128: a low one runs, a high one arrives, both grow, and the low one is preempted."""
    monkeypatch.setattr(fake_engine, "BLOCK_SIZE", 128)

    def ended(cls, entry) -> tuple[int, int]:
        more = {"scheduling_policy": "priority", "blocks": 5, "fluidwait": entry}
        engine = FakeEngine(make_scheduler(engine_options, cls, **more))
        engine.add(make_request("low", 200, 150, priority=5, arrival=0.0))
        engine.step()
        engine.add(make_request("high", 230, 40, priority=0, arrival=1.0))
        while "high" not in engine.reasons:
            engine.step()
        step, preempted = engine.steps, engine.scheduler.requests["low"].num_preemptions
        engine.drain()
        assert engine.tokens == {"low": 150, "high": 40}
        return step, preempted

    step, preempted = ended(AsyncScheduler, None)
    assert step < 45 and preempted == 1
    ours, preempted = ended(WaitScheduler, entry)
    assert preempted == 1
    assert ours <= step + (8 if entry["settings"].get("chunk") == 32 else 0)  # its prompt takes 8 chunks


@pytest.mark.parametrize("depth", [1, 2], ids=["sync", "async"])
@pytest.mark.parametrize("policy", TIGHT)
def test_nobody_is_preempted_for_a_lower_one(engine_options, policy, depth):
    """With a plan that pauses and holds: who goes for lack of memory ranks last, and who enters ranks first.

    With one segment no decode sits out while a lower one is served, either.
    """
    entry = {"policy": policy, "settings": TIGHT[policy]}
    more = {"scheduling_policy": "priority", "blocks": 24, "async_scheduling": depth > 1}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry, **more), depth)
    chance, preempted, paused = random.Random(depth), 0, 0
    rank = {}
    for step in range(600):
        if chance.random() < 0.25:
            name = f"r{step}"
            rank[name] = (chance.randrange(4), float(step))
            output = chance.choice([3, 30, 80])
            priority, arrival = rank[name]
            engine.add(make_request(name, chance.choice([5, 20, 60]), output, priority=priority, arrival=arrival))
        before = {r.request_id for r in engine.scheduler.running}
        decodes = [r.request_id for r in engine.scheduler.running if not r.is_prefill_chunk and not is_over(r)]
        counted = {name: r.num_preemptions for name, r in engine.scheduler.requests.items()}
        planned = engine.step()
        gone = [n for n, r in engine.scheduler.requests.items() if r.num_preemptions > counted.get(n, 0)]
        inside = [r.request_id for r in engine.scheduler.running]
        paused += sum(name not in planned for name in inside)
        preempted += len(gone)
        if policy == "wait_chunked" and not gone:  # when one preempts itself, vLLM ends its step there
            served = [rank[name] for name in decodes if name in planned]
            left_out = [rank[name] for name in decodes if name in inside and name not in planned]
            assert not served or not left_out or max(served) < min(left_out)
        for name in gone:
            assert all(rank[other] < rank[name] for other in inside)
        entered = [name for name in planned if name not in before]
        waiting = [r for r in engine.scheduler.waiting if not getattr(r, "num_stale_output_tokens", 0)]
        if entered and waiting:
            assert max(rank[name] for name in entered) < min(rank[r.request_id] for r in waiting)
    engine.drain()
    assert preempted > 10 and paused > 3


def is_over(request: Request) -> bool:
    """Whether its last token is on its way."""
    return request.num_output_tokens + request.num_output_placeholders >= request.max_tokens
