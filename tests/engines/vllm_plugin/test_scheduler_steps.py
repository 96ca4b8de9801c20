"""The plug-in in vLLM's own scheduler, step by step, with made-up tokens instead of a model."""

from __future__ import annotations

import inspect
import random
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

from fake_engine import FakeEngine, free_blocks, make_request, make_scheduler  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.interface import PauseState  # noqa: E402

from fluidwait.base.errors import ConfigError
from fluidwait.engines.v1.columns import ALIVE, CACHED, GENERATED  # noqa: E402
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.engines.vllm.settings import refuse_unsupported  # noqa: E402

CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": 8, "boundaries": [20], "chunk": 32, "max_wait": 60.0},
}
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [4, 2], "boundaries": [5, 40], "max_wait": 60.0}}
DEPTHS = pytest.mark.parametrize("depth", [1, 2], ids=["sync", "async"])
POLICIES = pytest.mark.parametrize("entry", [CHUNKED, NESTED], ids=["wait_chunked", "nested_wait"])


def with_settings(entry: dict, **changes) -> dict:
    return entry | {"settings": entry["settings"] | changes}


def engine_of(options, entry, depth: int = 2, **more) -> FakeEngine:
    mode = {"async_scheduling": depth > 1}
    return FakeEngine(make_scheduler(options, WaitScheduler, fluidwait=entry, **mode, **more), depth)


def fill(engine: FakeEngine, n: int, prompt: int = 20, output: int = 20, prefix: str = "r") -> list[str]:
    names = [f"{prefix}{i}" for i in range(n)]
    for name in names:
        engine.add(make_request(name, prompt, output))
    return names


def run(engine: FakeEngine, steps: int) -> list[dict[str, int]]:
    return [engine.step() for _ in range(steps)]


def assert_empty(engine: FakeEngine, blocks: int = 1000) -> None:
    """Nothing left in the scheduler, in the plug-in or in the KV cache (one block is vLLM's own)."""
    scheduler = engine.scheduler
    assert scheduler.get_request_counts() == (0, 0)
    assert not scheduler.requests
    assert free_blocks(scheduler) == blocks - 1
    scheduler.gate.book.forget_finished()
    assert not scheduler.gate.book.table.slot_of


@DEPTHS
def test_holds_back_until_the_quota_is_there(engine_options, depth):
    """Nested WAIT with n_1 = 4 starts nobody before four wait, then all four at once."""
    engine = engine_of(engine_options, NESTED, depth)
    fill(engine, 3)
    assert run(engine, 5) == [{}] * 5
    assert engine.scheduler.get_request_counts() == (0, 3)
    engine.add(make_request("fourth", 20, 20))
    assert engine.step() == {"r0": 20, "r1": 20, "r2": 20, "fourth": 20}


@DEPTHS
def test_pauses_keep_their_blocks(engine_options, depth):
    """n_2 = 2: a lone survivor at the boundary sits out while new requests run; a second one takes it along."""
    engine = engine_of(engine_options, with_settings(NESTED, thresholds=[1, 2]), depth)
    engine.add(make_request("long", 20, 30))
    scheduled = feed(engine, 12)
    assert sum("long" in step for step in scheduled) == 5  # as many as it has tokens at the boundary
    assert all(len(step) > 0 for step in scheduled)
    long = engine.scheduler.requests["long"]
    assert long.num_output_tokens == 5 and long in engine.scheduler.running
    used = engine.scheduler.kv_cache_manager.get_block_ids("long")
    engine.add(make_request("longer", 20, 30))
    together = [step for step in feed(engine, 12) if "long" in step and "longer" in step]
    assert together
    assert engine.scheduler.kv_cache_manager.get_block_ids("long")[0][: len(used[0])] == used[0]
    assert long.num_preemptions == 0


def feed(engine: FakeEngine, steps: int) -> list[dict[str, int]]:
    """Steps, each after the arrival of a request that ends at the first boundary."""
    planned = []
    for _ in range(steps):
        engine.add(make_request(f"fed{len(engine.tokens)}", 20, 5))
        planned.append(engine.step())
    return planned


@DEPTHS
@POLICIES
def test_everyone_ends_with_all_tokens(engine_options, entry, depth):
    engine = engine_of(engine_options, with_settings(entry, max_wait=0.005), depth)
    lengths = {f"r{i}": 1 + (7 * i) % 40 for i in range(60)}
    for name, output in lengths.items():
        engine.add(make_request(name, 5 + output, output))
    engine.drain()
    assert engine.tokens == lengths
    assert set(engine.reasons.values()) == {"length"}
    assert_empty(engine)


@POLICIES
def test_same_order_as_first_come_first_served(engine_options, entry):
    engine = engine_of(engine_options, with_settings(entry, max_wait=0.001))
    fill(engine, 30)
    seen: list[str] = []
    while engine.scheduler.has_requests():
        seen += [name for name in engine.step() if name not in seen]
    assert seen == [f"r{i}" for i in range(30)]


def test_no_more_in_service_than_the_cap(engine_options):
    engine = engine_of(engine_options, with_settings(CHUNKED, max_wait=0.001))
    fill(engine, 40)
    most = 0
    while engine.scheduler.has_requests():
        engine.step()
        most = max(most, sum(engine.tokens[r.request_id] < 19 for r in engine.scheduler.running))
    assert 4 < most <= 8


@DEPTHS
def test_chunks_of_prompts(engine_options, depth):
    """A prompt of 100 tokens in chunks of 32, while the rest of the batch decodes."""
    engine = engine_of(engine_options, with_settings(CHUNKED, max_wait=0.0), depth)
    engine.add(make_request("short", 10, 20))
    run(engine, 3)
    engine.add(make_request("long", 100, 5))
    chunks = [step["long"] for step in run(engine, 6) if "long" in step]
    assert chunks[:4] == [32, 32, 32, 4]
    engine.drain()
    assert_empty(engine)


def test_batch_tokens_bound_the_batch(engine_options):
    engine = engine_of(engine_options, with_settings(CHUNKED, in_service=40, max_wait=0.0, batch_tokens=40))
    fill(engine, 20, prompt=50)
    sizes = []
    while engine.scheduler.has_requests():
        sizes.append(sum(engine.step().values()))
    assert max(sizes) == 40
    assert_empty(engine)


def test_without_chunked_prefill_prompts_stay_whole(engine_options):
    entry = with_settings(CHUNKED, max_wait=0.0, batch_tokens=40)
    engine = engine_of(engine_options, entry, enable_chunked_prefill=False, max_num_batched_tokens=1024)
    fill(engine, 20, prompt=100, output=3)
    sizes = set()
    while engine.scheduler.has_requests():
        sizes |= set(engine.step().values())
    assert sizes == {100, 1}
    assert_empty(engine)


def test_prefix_caching_shares_blocks(engine_options):
    """Twelve requests with one prompt of 320 tokens run together in a cache that holds it twice."""
    entry = with_settings(CHUNKED, in_service=12, max_wait=0.0, chunk=512)
    engine = engine_of(engine_options, entry, blocks=45, enable_prefix_caching=True)
    prompt = list(range(3, 203)) + list(range(3, 123))
    engine.add(make_request("first", len(prompt), 40, tokens=prompt))
    run(engine, 3)
    for i in range(11):
        engine.add(make_request(f"r{i}", len(prompt), 40, tokens=prompt))
    most = max(len(step) for step in run(engine, 30))
    assert most >= 10
    engine.drain()
    assert set(engine.tokens.values()) == {40}
    assert_empty(engine, blocks=45)


def test_priorities_enter_first(engine_options):
    entry = with_settings(NESTED, thresholds=[2, 1], max_wait=0.001)
    engine = engine_of(engine_options, entry, scheduling_policy="priority")
    for i in range(6):
        engine.add(make_request(f"low{i}", 20, 5, priority=5, arrival=float(i)))
    engine.add(make_request("urgent", 20, 5, priority=0, arrival=10.0))
    assert "urgent" in engine.step()
    engine.drain()
    assert_empty(engine)


def one_at_a_time(entry: dict) -> dict:
    return {"in_service": 1} if "in_service" in entry["settings"] else {}


@DEPTHS
@POLICIES
def test_abort_in_the_queue_and_in_a_pause(engine_options, entry, depth):
    """Nested WAIT pauses all four as nobody follows them, and holds the fifth; the other policy holds by its cap."""
    engine = engine_of(engine_options, with_settings(entry, max_wait=0.5, **one_at_a_time(entry)), depth)
    fill(engine, 3, output=5)
    engine.add(make_request("paused", 20, 30))
    run(engine, 2 + depth)
    engine.add(make_request("held", 20, 30))
    run(engine, 2)
    assert engine.scheduler.get_request_counts()[1] >= 1
    assert engine.tokens["held"] == 0
    engine.abort("held")
    engine.abort("paused")
    engine.drain()
    assert engine.tokens["held"] == 0
    assert_empty(engine)


@DEPTHS
@POLICIES
def test_preemption_when_memory_runs_out(engine_options, entry, depth):
    """Outputs that outgrow the cache: the newest are preempted, come back, and end with every token."""
    entry = with_settings(entry, max_wait=0.002)
    if "in_service" in entry["settings"]:
        entry = with_settings(entry, in_service=16, boundaries=[200])
    engine = engine_of(engine_options, entry, depth, blocks=61)
    preempted = []
    engine.scheduler.reset_preempted_req_ids = set()
    fill(engine, 16, prompt=16, output=150)
    while engine.scheduler.has_requests() or engine.flights:
        engine.step()
        preempted += [r for r in engine.scheduler.waiting if r.num_preemptions]
    assert preempted
    assert set(engine.tokens.values()) == {150}
    assert_empty(engine, blocks=61)


@DEPTHS
@POLICIES
def test_pause_resume_and_cache_reset(engine_options, entry, depth):
    engine = engine_of(engine_options, with_settings(entry, max_wait=0.001), depth)
    fill(engine, 20)
    run(engine, 4)
    engine.scheduler.set_pause_state(PauseState.PAUSED_ALL)
    run(engine, depth)
    assert run(engine, 3) == [{}] * 3
    engine.scheduler.set_pause_state(PauseState.UNPAUSED)
    run(engine, 3)
    engine.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    inside = {r.request_id for r in engine.scheduler.running}
    while engine.scheduler.running:
        assert set(engine.step()) <= inside  # those inside drain, whatever their segment's threshold
    engine.scheduler.set_pause_state(PauseState.UNPAUSED)
    run(engine, 4)
    engine.preempt()
    engine.drain()
    assert set(engine.tokens.values()) == {20}
    assert_empty(engine)


@POLICIES
def test_longer_than_the_last_boundary(engine_options, entry):
    engine = engine_of(
        engine_options, with_settings(entry, max_wait=0.001, boundaries=[5, 10] if entry is NESTED else [10])
    )
    lengths = {f"r{i}": 8 + 3 * i for i in range(12)}
    for name, output in lengths.items():
        engine.add(make_request(name, 20, output))
    engine.drain()
    assert engine.tokens == lengths
    assert_empty(engine)


def test_wait_with_two_known_types(engine_options, tmp_path):
    """WAIT tells its types by prompt length and max_tokens; type 2 waits for its own threshold."""
    workload = tmp_path / "two.yaml"
    workload.write_text(
        "name: two\nlengths:\n  kind: mixture\n  types:\n"
        "    - {share: 0.5, prompt: 20, output: 5}\n    - {share: 0.5, prompt: 60, output: 8}\n"
        "arrivals: {process: poisson, rate: 1.0}\n"
    )
    entry = {"policy": "wait", "settings": {"thresholds": [2, 3], "max_wait": 60.0}, "workload": str(workload)}
    engine = engine_of(engine_options, entry)
    for i in range(2):
        engine.add(make_request(f"a{i}", 20, 5))
        engine.add(make_request(f"b{i}", 60, 8))
    assert set(engine.step()) == {"a0", "a1"}
    engine.add(make_request("b2", 60, 8))
    assert {"b0", "b1", "b2"} <= set(engine.step())


def test_a_request_of_all_the_memory_gets_in(engine_options):
    """The watermark must not keep out a request that fits only an empty engine."""
    engine = engine_of(engine_options, with_settings(CHUNKED, max_wait=0.0), blocks=65)
    engine.add(make_request("huge", 1000, 20))
    engine.add(make_request("next", 20, 20))
    engine.drain()
    assert engine.tokens == {"huge": 20, "next": 20}
    assert_empty(engine, blocks=65)


@pytest.mark.parametrize("entry", [None, CHUNKED, NESTED], ids=["stock", "wait_chunked", "nested_wait"])
def test_a_prompt_that_no_memory_can_hold_waits_as_in_vllm(engine_options, entry):
    """vLLM's own scheduler leaves it at the head of the queue until its client gives up, with or without us."""
    cls = WaitScheduler if entry else AsyncScheduler
    entry = entry and with_settings(entry, max_wait=0.0)
    engine = FakeEngine(make_scheduler(engine_options, cls, fluidwait=entry, blocks=11, enable_chunked_prefill=False))
    engine.add(make_request("first", 20, 5))
    engine.add(make_request("too_long", 16 * 10 + 1, 5))
    engine.add(make_request("behind", 20, 5))
    for _ in range(30):
        engine.step()
    assert engine.reasons["first"] == "length" and len(engine.reasons) == 1
    assert [request.request_id for request in engine.scheduler.waiting] == ["too_long", "behind"]
    engine.abort("too_long")
    engine.drain()
    assert engine.reasons["behind"] == "length"
    assert free_blocks(engine.scheduler) == 10


@DEPTHS
@POLICIES
def test_a_lone_request_is_served_within_max_wait(engine_options, entry, depth):
    """It waits at most max_wait in all; a second of patience would show up as a second of idling."""
    engine = engine_of(engine_options, with_settings(entry, max_wait=0.2), depth)
    started = time.monotonic()
    engine.add(make_request("lone", 20, 30))
    first = None
    while engine.scheduler.has_requests() or engine.flights:
        if engine.step() and first is None:
            first = time.monotonic() - started
    total = time.monotonic() - started
    assert first <= 0.3 and total <= 0.5  # the steps themselves take milliseconds
    assert (first >= 0.2) == (entry is NESTED)  # one request fills the chunked policy's empty segment
    assert engine.scheduler.gate.report.counts["empty_steps"] < 400  # it naps instead of spinning
    assert_empty(engine)


def test_overload_is_no_worse_than_first_come_first_served(engine_options):
    """500 requests at once: as many steps as vLLM alone with the same cap, within 5 %, and the same order."""

    def steps_and_order(cls, entry):
        engine = FakeEngine(make_scheduler(engine_options, cls, fluidwait=entry, max_num_seqs=32), 2)
        fill(engine, 500, output=20)
        order: list[str] = []
        while engine.scheduler.has_requests():
            order += [name for name in engine.step() if name not in engine.reasons and name not in order]
        return engine.steps, order

    stock, fcfs = steps_and_order(AsyncScheduler, None)
    entry = with_settings(CHUNKED, in_service=32, chunk=1024, max_wait=0.02)
    ours, order = steps_and_order(WaitScheduler, entry)
    assert order == fcfs
    assert ours <= 1.05 * stock + 20


def test_data_parallel_throttling_is_the_parents(engine_options):
    """vLLM's argument that puts off prefills goes through: no prefill while it is on, all of it afterwards."""
    if "throttle_prefills" not in inspect.signature(AsyncScheduler.schedule).parameters:
        pytest.skip("schedule() of this vLLM release has no throttle_prefills, which 0.32 has")
    engine = engine_of(engine_options, with_settings(CHUNKED, in_service=40, max_wait=0.0), 1)
    scheduler = engine.scheduler
    fill(engine, 2)
    run(engine, 2)
    engine.add(make_request("late", 20, 20))
    assert "late" not in scheduler.schedule(True).num_scheduled_tokens
    assert "late" in scheduler.schedule(False).num_scheduled_tokens


@pytest.mark.parametrize(("depth", "caching"), [(1, False), (2, True)], ids=["sync", "async-prefix-caching"])
@POLICIES
def test_soak(engine_options, entry, depth, caching, tmp_path):
    """2,000 requests with random arrivals, aborts, pauses, preemptions and cache resets: none lost, no block leaked."""
    entry = with_settings(entry, max_wait=0.003)
    if "in_service" in entry["settings"]:
        entry = with_settings(entry, in_service=24, boundaries=[30, 120], gate=True, segments=None)
        entry = entry | {"workload": str(mixture_of_lengths(tmp_path))}
    engine = engine_of(engine_options, entry, depth, blocks=101, enable_prefix_caching=caching)
    scheduler, chance = engine.scheduler, random.Random(7)
    lengths: dict[str, int] = {}
    sent = resets = preempted = 0
    while sent < 2000 or scheduler.has_requests() or engine.flights:
        for _ in range(chance.choice([0, 0, 1, 3, 12])):
            if sent < 2000:
                name, output = f"r{sent}", chance.choice([1, 3, 20, 100])
                lengths[name] = output
                engine.add(make_request(name, chance.choice([5, 30, 150]), output))
                sent += 1
        if chance.random() < 0.2 and scheduler.requests:
            engine.abort(chance.choice(list(scheduler.requests)))
        if chance.random() < 0.01:
            engine.preempt()
            resets += 1
        if chance.random() < 0.02:
            scheduler.set_pause_state(chance.choice([PauseState.PAUSED_ALL, PauseState.PAUSED_NEW]))
            run(engine, chance.randrange(4))
            scheduler.set_pause_state(PauseState.UNPAUSED)
        before = preemptions(scheduler)
        engine.step()
        preempted += preemptions(scheduler) > before
        check_table(scheduler)
    assert resets > 5 and preempted > 5 and "aborted" in engine.reasons.values()
    assert set(engine.reasons) == set(lengths)  # every request accounted for
    for name, reason in engine.reasons.items():
        assert engine.tokens[name] == lengths[name] if reason == "length" else engine.tokens[name] <= lengths[name]
    assert_empty(engine, blocks=101)


def preemptions(scheduler) -> int:
    return sum(request.num_preemptions for request in scheduler.requests.values())


def mixture_of_lengths(folder):
    """A workload file with the lengths of the soak."""
    path = folder / "soak.yaml"
    types = [f"    - {{share: 0.25, prompt: 60, output: {output}}}\n" for output in (1, 3, 20, 100)]
    head, tail = "name: soak\nlengths:\n  kind: mixture\n  types:\n", "arrivals: {process: poisson}\n"
    path.write_text(head + "".join(types) + tail)
    return path


def check_table(scheduler) -> None:
    """The arrays that the policy sees say what the engine's requests say."""
    gate = scheduler.gate
    if gate.book.stale:
        return
    slots = gate.book.slots[gate.book.table.counts[ALIVE, gate.book.slots] == 1]
    by_slot = {
        gate.book.table.slot_of[r.request_id]: r for r in scheduler.running if r.request_id in gate.book.table.slot_of
    }
    for slot in slots.tolist():
        request = by_slot.get(slot)
        if request is not None:
            assert gate.book.table.counts[CACHED, slot] == request.num_computed_tokens
            assert (
                gate.book.table.counts[GENERATED, slot] == request.num_output_tokens + request.num_output_placeholders
            )


REFUSED = [
    ("auto_mode", "additional_config: fluidwait: policy: 'auto_mode' is not a valid value (did you mean 'auto'?)"),
    ({"polcy": "wait"}, "additional_config: fluidwait: polcy: unknown key (did you mean 'policy'?)"),
    (
        {"policy": "wait_chunked", "settings": {"chunk": 0}},
        "additional_config: fluidwait: settings: chunk: input should be greater than 0, found 0",
    ),
    (
        with_settings(NESTED, max_wait=float("inf")),
        "additional_config: fluidwait: settings: max_wait: must be finite, or a lone request would wait for ever "
        "(nearest valid: 1)",
    ),
    ({"policy": "wait"}, "additional_config: fluidwait: workload: required key is missing"),
    (
        {"policy": "wait_chunked", "settings": {"in_service": "fluid", "segments": 300}, "least": 100},
        "in_service: must be a whole number",
    ),
    ({"policy": "auto", "settings": {"segment": 3}}, "additional_config: fluidwait: settings: segment: unknown key"),
]


@pytest.mark.parametrize(("entry", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_wrong_settings_are_one_line(engine_options, entry, message):
    with pytest.raises(ConfigError) as told:
        make_scheduler(engine_options, WaitScheduler, fluidwait=entry, max_num_seqs=256)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


UNSUPPORTED = {
    "pipeline parallelism": ("parallel_config", {"pipeline_parallel_size": 2}),
    "speculative decoding": ("speculative_config", {}),
    "KV transfer (disaggregation, offloading)": ("kv_transfer_config", {}),
    "encoder-cache transfer (encoders on other machines)": ("ec_transfer_config", {}),
    "the pooling runner": ("model_config", {"runner_type": "pooling"}),
    "encoder-decoder models": ("model_config", {"is_encoder_decoder": True}),
    "diffusion models": ("model_config", {"is_diffusion": True}),
}


@pytest.mark.parametrize("feature", UNSUPPORTED)
def test_refuses_what_it_cannot_support(feature):
    """One line that names the feature."""
    part, changes = UNSUPPORTED[feature]
    config = SimpleNamespace(
        model_config=SimpleNamespace(runner_type="generate", is_encoder_decoder=False, is_diffusion=False),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        speculative_config=None,
        kv_transfer_config=None,
        ec_transfer_config=None,
    )
    refuse_unsupported(config)
    known = vars(getattr(config, part) or SimpleNamespace())
    setattr(config, part, SimpleNamespace(**known | changes))
    with pytest.raises(ConfigError) as told:
        refuse_unsupported(config)
    assert str(told.value).startswith(f"WaitScheduler does not work with {feature}: ")
    assert str(told.value).endswith("; leave out --scheduler-cls") and "\n" not in str(told.value)
