"""vLLM's scheduler without a model: made-up tokens, so that thousands of steps take seconds.

The loop is that of vLLM's engine core: with asynchronous scheduling a step is planned while the one before is still
in flight.
"""

from __future__ import annotations

import random
from collections import deque

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import RequestStatus

from fluidwait.engines.vllm_clock import scheduler as parts

BLOCK_SIZE, EOS = 16, parts.EOS


def make_scheduler(options: dict, cls=AsyncScheduler, *, blocks: int = 1000, fluidwait=None, **more):
    """A scheduler for the tiny model; ``fluidwait`` is the entry of additional_config."""
    options = {key: value for key, value in options.items() if key not in ("num_gpu_blocks_override", "block_size")}
    options = options | {"enable_prefix_caching": False} | more
    return parts.make_scheduler(cls, options, blocks=blocks, block_size=BLOCK_SIZE, fluidwait=fluidwait)


def make_request(name: str, prompt: int, output: int, *, priority: int = 0, arrival: float | None = None, tokens=None):
    """A request of ``prompt`` tokens that may generate ``output``."""
    prompt_tokens = list(tokens or [3 + hash(name) % 200] * prompt)
    return parts.make_request(name, prompt_tokens, output, priority=priority, arrival=arrival, block_size=BLOCK_SIZE)


class FakeEngine:
    """Steps a scheduler. ``depth`` 2 is asynchronous scheduling, 1 is not."""

    def __init__(self, scheduler, depth: int = 2, seed: int = 0):
        self.scheduler, self.depth = scheduler, depth
        self.flights: deque = deque()
        chance = random.Random(seed)
        self.token = lambda name: chance.randrange(3, 250)  # that the model generates next for the request of this name
        self.tokens: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.steps = 0
        self.batches: list[dict[str, int]] = []  # tokens per request of every step
        self.answers: list = []  # vLLM's, for the batch that ended last
        self.stats = None  # vLLM's statistics of that moment

    def add(self, request) -> None:
        self.tokens[request.request_id] = 0
        self.scheduler.add_request(request)

    def preempt(self) -> None:
        """Make the engine drop the KV cache of everything that runs, as a cache reset does."""
        self.scheduler.reset_prefix_cache(reset_running_requests=True)

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        self.reasons.setdefault(name, "aborted")

    def step(self) -> dict[str, int]:
        """Plan one batch and, when enough are in flight, end the oldest; returns the planned tokens per request."""
        self.steps += 1
        planned: dict[str, int] = {}
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            planned = dict(output.num_scheduled_tokens)
            self.batches.append(planned)
            self.flights.append(output)
        if len(self.flights) >= self.depth or not self.scheduler.has_requests():
            self._end_oldest()
        return planned

    def drain(self, most: int = 100_000) -> None:
        """Step until nothing is left."""
        while self.scheduler.has_requests() or self.flights:
            self.step()
            most -= 1
            assert most > 0, f"stranded: {self.scheduler.get_request_counts()}"

    def _end_oldest(self) -> None:
        if not self.flights:
            return
        output = self.flights.popleft()
        known = {name: r.num_tokens for name, r in self.scheduler.requests.items()}  # aborted ones are gone
        result = parts.model_output(output, known, self.token)
        told = self.scheduler.update_from_output(output, result)
        self.answers = [answer for outputs in told.values() for answer in outputs.outputs]
        self.stats = next((outputs.scheduler_stats for outputs in told.values()), None)
        for answer in self.answers:
            self.tokens[answer.request_id] += len(answer.new_token_ids)
            if answer.finish_reason is not None:
                self.reasons[answer.request_id] = str(answer.finish_reason)


def free_blocks(scheduler) -> int:
    return scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
