"""A plan that does not bind leaves vLLM's schedule as it is: step by step beside vLLM's own scheduler.

The plans here have no gate and no caps below the engine's, so that whatever differs is a fault.
"""

from __future__ import annotations

import random
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

from fake_engine import EOS, FakeEngine, make_request, make_scheduler  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.interface import PauseState  # noqa: E402
from vllm.v1.request import Request, RequestStatus  # noqa: E402

from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

SEATS = 12
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [10**6], "boundaries": [1024], "max_wait": 0.0}}
CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": SEATS, "boundaries": [1], "chunk": 10**6, "gate": False, "max_wait": 0.0},
}
POLICIES = pytest.mark.parametrize("entry", [CHUNKED, NESTED], ids=["wait_chunked", "nested_wait"])
RANKS = pytest.mark.parametrize("ranks", ["fcfs", "priority"])
ACCEPTING = SimpleNamespace(accept_tokens=lambda name, tokens: True, is_terminated=lambda: False)


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
    kv = scheduler.kv_cache_manager
    return {
        "running": [r.request_id for r in scheduler.running],
        "waiting": [(r.request_id, r.status == RequestStatus.PREEMPTED) for r in scheduler.waiting],
        "kv_holding": [r.request_id for r in getattr(scheduler, "kv_holding_waiting", ())],
        "deferred": {r.request_id for r in getattr(scheduler, "deferred_waiting", ())},
        "counts": scheduler.get_request_counts(),
        "preempted": {name: r.num_preemptions for name, r in scheduler.requests.items()},
        "free": kv.block_pool.get_num_free_blocks(),
        "bound": getattr(scheduler, "prefill_capacity_bound", None),
    }


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
        if chance.random() < 0.02 and not getattr(twins.stock.scheduler, "kv_holding_waiting", ()):
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
        kinds = ["plain"] * 6 + ["stops", "shares", "grammar", "session"] + ["image"] * self.features.get("images", 0)
        kind = chance.choice(kinds)
        self.kinds.add(kind)
        prompt, output = chance.choice([1, 5, 30, 60, 150]), chance.choice([1, 2, 10, 40])
        what = {"priority": chance.randrange(3), "arrival": float(self.sent)}
        if kind == "stops":
            what["stop"] = [chance.randrange(3, 250) for _ in range(20)]
        elif kind == "shares":
            what["tokens"] = [7] * prompt
        elif kind == "image":
            what["images"] = chance.randint(1, 3)
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


def request(name, prompt, output, *, grammar=False, stop=(), resumable=False, images=0, **what) -> Request:
    """As :func:`fake_engine.make_request`, with more kinds."""
    made = make_request(name, prompt, output, **{"tokens": [3 + hash(name) % 200] * prompt} | what)
    guided = StructuredOutputsParams(regex="a*") if grammar else None
    params = SamplingParams(
        max_tokens=output, ignore_eos=True, stop_token_ids=list(stop) or None, structured_outputs=guided
    )
    params.update_from_generation_config({}, EOS)
    places = [PlaceholderRange(offset=5 + 15 * i, length=10) for i in range(images)]
    return Request(
        request_id=name,
        prompt_token_ids=list(made.prompt_token_ids),
        sampling_params=params,
        pooling_params=None,
        arrival_time=made.arrival_time,
        priority=made.priority,
        block_hasher=made._block_hasher,
        resumable=resumable,
        mm_features=[MultiModalFeatureSpec(None, "image", f"{name}-{i}", place) for i, place in enumerate(places)],
    )


SETUPS = {
    "memory is short": {"blocks": 30},
    "memory is short, no prefix caching": {"blocks": 30, "enable_prefix_caching": False},
    "plenty of memory, few tokens per batch": {"blocks": 2000, "max_num_batched_tokens": 64},
    "few tokens per batch, memory is short": {"blocks": 34, "max_num_batched_tokens": 48},
    "long prefills are cut": {"blocks": 200, "long_prefill_token_threshold": 32, "max_num_batched_tokens": 96},
    "whole prompts": {"blocks": 60, "enable_chunked_prefill": False, "max_num_batched_tokens": 1024},
    "vLLM's own watermark": {"blocks": 40, "watermark": 0.1},
    "no reserve for the prompt": {"blocks": 40, "scheduler_reserve_full_isl": False, "max_num_batched_tokens": 64},
}


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("depth", [1, 2], ids=["sync", "async"])
@RANKS
@POLICIES
def test_random_requests_are_scheduled_as_by_vllm(engine_options, entry, ranks, depth, setup):
    more = {"enable_prefix_caching": True, "max_num_batched_tokens": 256} | SETUPS[setup]
    for seed in range(3):
        twins = Twins(engine_options, entry, depth, scheduling_policy=ranks, **more)
        traffic = Traffic(twins, seed)
        for _ in range(250):
            traffic.happen()
            twins.step()
        traffic.end()
