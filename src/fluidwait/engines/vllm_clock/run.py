"""The loop of vLLM's engine core in virtual time, around vLLM's real scheduler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from fluidwait.device.timing import BatchSums, TimeModel, in_python, iteration_time
from fluidwait.engines.core import EngineError, most_fruitless
from fluidwait.engines.learning import Learned
from fluidwait.engines.simulator import LOG_COLUMNS, Run
from fluidwait.engines.v1.limits import limited
from fluidwait.engines.v1.planned import MOST_EMPTY
from fluidwait.engines.v1.rules import NULL_BLOCK, Rules, model_length
from fluidwait.engines.vllm import WaitScheduler
from fluidwait.engines.vllm import clock as plugin_clock
from fluidwait.engines.vllm import preparation as plugin_preparation
from fluidwait.engines.vllm.preparation import AtOnce
from fluidwait.engines.vllm_clock.plugin import GivenScheduler
from fluidwait.engines.vllm_clock.scheduler import computed_before, make_request, make_scheduler, model_output
from fluidwait.workload import predicted_output


class Clock:
    """Stands for the module ``time`` in the plug-in; both its clocks begin at 0, and so agree to the last bit."""

    def __init__(self) -> None:
        self.now = 0.0  # s

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def virtual_time() -> Iterator[Clock]:
    """The plug-in's clock, which moves only when told to; afterwards everything is as it was."""
    clock = Clock()
    with (
        patch.object(plugin_clock, "time", clock),
        patch.object(plugin_preparation, "ThreadPoolExecutor", lambda *_: AtOnce()),
    ):
        yield clock


class Job(NamedTuple):
    """A run with everything resolved."""

    requests: Any  # arrays arrival, prompt, output
    policy: Any
    knobs: Any
    time_model: TimeModel
    rules: Rules
    priority: np.ndarray | None
    hashes: list[list[int]] | None


def run(job: Job, log: bool) -> Run:
    """Run the job.

    Raises:
        EngineError: requests were left behind.
    """
    with virtual_time() as clock:
        scheduler = _scheduler(job)
        try:
            loop = Loop(scheduler, job.requests, job.time_model, clock, job.rules, job.priority, job.hashes)
            loop.through()
        finally:
            scheduler.shutdown()
    return loop.outcome(log)


def _scheduler(job: Job):
    """vLLM's own scheduler with the policy's limits; or the plug-in with the knobs as they are, or finding its own."""
    policy, knobs = job.policy, job.knobs
    if isinstance(knobs, Learned):
        own = knobs.settings.model_dump(exclude={"policy", "settings"}, exclude_unset=True)
        entry = {"policy": policy.use, "settings": policy.settings.model_dump(mode="json", exclude_unset=True)}
        return make_scheduler(WaitScheduler, **settings(job.rules, job.requests), fluidwait=entry | own)
    rules = limited(policy, knobs, job.rules)
    if policy.stock_limits(knobs) is not None:
        return make_scheduler(AsyncScheduler if rules.depth > 1 else Scheduler, **settings(rules, job.requests))
    given = partial(GivenScheduler, policy, knobs, job.requests)
    return make_scheduler(given, **settings(job.rules, job.requests))  # the limits are the plug-in's to keep


def settings(rules: Rules, requests) -> dict[str, Any]:
    """Arguments of :func:`make_scheduler` for these rules."""
    options = {
        "max_model_len": model_length(requests),
        "max_num_seqs": rules.requests,
        "max_num_batched_tokens": rules.tokens,
        # vLLM truncates share x blocks; the half keeps rounding from taking a block away
        "watermark": (rules.watermark + 0.5) / (rules.blocks + NULL_BLOCK) if rules.watermark else 0.0,
        "long_prefill_token_threshold": rules.chunk,
        "scheduler_reserve_full_isl": rules.whole,
        "scheduling_policy": "priority" if rules.by_priority else "fcfs",
        "enable_prefix_caching": rules.caching,
        "async_scheduling": rules.depth > 1,
        "enable_chunked_prefill": True,
    }
    return {"options": options, "blocks": rules.blocks + NULL_BLOCK, "block_size": rules.block_size}


class Loop:
    """Steps a scheduler until every request has completed.

    Attributes:
        first, completion: float64[N], s.
        knobs: of the plug-in's last plan; None without one.
    """

    def __init__(self, scheduler, requests, time_model, clock, rules, priority=None, hashes=None):
        self.scheduler, self.requests, self.time_model, self.clock = scheduler, requests, time_model, clock
        self.rules, self.priority, self.hashes = rules, priority, hashes
        self.flights: deque = deque()  # (output, end in s), oldest first
        self.device_free = 0.0  # s
        self.sent = self.done = self.empty = 0
        self.fruitless = 0  # evictions since a request last came or completed
        self.predicted = predicted_output(requests)
        self.known: dict[str, Any] = {}  # vLLM's request by name
        self.goal: dict[str, int] = {}  # tokens to prefill
        self.rows: list[tuple] = []  # per iteration, LOG_COLUMNS
        self.evictions = self.peak = 0
        n = len(requests.arrival)
        self.first, self.completion = np.full(n, np.nan), np.full(n, np.nan)
        self.knobs: Any = None

    def through(self) -> None:
        """All of it.

        Raises:
            EngineError: the scheduler plans nothing any more, or requests evict each other for ever.
        """
        n, scheduler, seen = len(self.requests.arrival), self.scheduler, 0
        most = in_python(most_fruitless)(self.requests)
        while self.done < n:
            self._arrivals()
            began = self.clock.now
            output = scheduler.schedule() if scheduler.has_requests() else None
            evicted = len(getattr(output, "preempted_req_ids", None) or ())
            self.evictions += evicted
            self.fruitless = self.fruitless + evicted if self.sent + self.done == seen else 0
            seen = self.sent + self.done
            if self.fruitless > most:
                raise EngineError(f"vLLM: no end in sight: {most} evictions since the last arrival and completion")
            planned = output is not None and output.total_num_scheduled_tokens > 0
            if planned:
                self._take_off(output)
            elif output is not None and not self.flights:
                self._hand_back(output)
            if len(self.flights) >= self.rules.depth or (self.flights and not planned):
                self._land()
            elif not self.flights:
                self._wait(began)
        gate = getattr(scheduler, "gate", None)
        plan = gate.preparation.prepared if gate else None
        self.knobs = plan.knobs if plan else None

    def outcome(self, log: bool) -> Run:
        """What the loop recorded."""
        rows = np.array(self.rows, dtype=float).reshape(-1, len(LOG_COLUMNS))
        preemptions = np.array([self.known[_name(i)].num_preemptions for i in range(len(self.first))], dtype=np.int64)
        busy = 0.0
        for seconds in rows[:, 1]:  # in the simulator's order
            busy += seconds
        return Run(self.first, self.completion, preemptions, len(rows), busy, self.peak, rows if log else None)

    def _arrivals(self) -> None:
        of = self.requests
        while self.sent < len(of.arrival) and of.arrival[self.sent] <= self.clock.now:
            i = self.sent
            request = make_request(
                _name(i),
                self._prompt(i),
                int(of.output[i]),
                priority=0 if self.priority is None else int(self.priority[i]),
                arrival=float(of.arrival[i]),
                block_size=self.rules.block_size,
                predicted=int(self.predicted[i]),
            )
            self.known[request.request_id] = request
            self.scheduler.add_request(request)
            self.sent += 1

    def _prompt(self, i: int) -> list[int]:
        """Tokens that make blocks of one number equal, and all that follows the last of them the request's own."""
        size, length, own = self.rules.block_size, int(self.requests.prompt[i]), -1 - i
        blocks = self.hashes[i] if self.hashes is not None else []
        shared = [size * block + j for block in blocks for j in range(size)]
        return shared + [own] * (length - len(shared))

    def _wait(self, began: float) -> None:
        """Until the next arrival; a scheduler that holds requests back has moved the clock by its own nap.

        Args:
            began: s, when it was last asked.
        """
        all_sent = self.sent == len(self.requests.arrival)
        if not all_sent and not self.scheduler.has_requests():
            self.clock.now = max(self.clock.now, float(self.requests.arrival[self.sent]))
            return
        self.empty += all_sent or self.clock.now == began
        if self.empty > MOST_EMPTY:
            raise EngineError(
                f"vllm: requests stranded at t = {self.clock.now:.6g} s: (running, waiting) = "
                f"{self.scheduler.get_request_counts()}"
            )

    def _take_off(self, output) -> None:
        self.empty = 0
        for new in output.scheduled_new_reqs:
            self.goal[new.req_id] = self.known[new.req_id].num_tokens
        for name in output.scheduled_cached_reqs.resumed_req_ids:
            self.goal[name] = self.known[name].num_tokens
        sums = self._sums(output)
        seconds, start = iteration_time(self.time_model, sums), max(self.clock.now, self.device_free)
        self.device_free = start + seconds
        self.flights.append((output, self.device_free))
        self.rows.append(
            (start, seconds, sums.tokens, len(output.num_scheduled_tokens), self._cached(), self.evictions)
        )
        free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self.peak = max(self.peak, self.rules.blocks - free)

    def _cached(self) -> int:
        """KV tokens of all that run, those of this batch included."""
        return sum(request.num_computed_tokens for request in self.scheduler.running)

    def _sums(self, output) -> BatchSums:
        computed = computed_before(output)
        tokens = kv = prefills = prefilled = squares = context = decodes = read = longest = 0
        for name, new in output.num_scheduled_tokens.items():
            cached = computed[name]
            tokens += new
            kv += cached + new
            longest = max(longest, cached + new)
            if cached < self.goal[name]:
                prefills += 1
                prefilled += new
                squares += new * new
                context += new * cached
            else:
                decodes += 1
                read += cached + 1
        return BatchSums(tokens, kv, prefills, prefilled, squares, context, decodes, read, longest)

    def _land(self) -> None:
        output, end = self.flights.popleft()
        self.clock.now = max(self.clock.now, end)
        for outputs in self._hand_back(output):
            for out in outputs.outputs:
                i = int(out.request_id)
                if out.new_token_ids and np.isnan(self.first[i]):
                    self.first[i] = self.clock.now
                if out.finish_reason is not None:
                    self.completion[i] = self.clock.now
                    self.done += 1

    def _hand_back(self, output):
        """Tell the scheduler what the batch gave: a token for each request that has no more to prefill."""
        result = model_output(output, self.goal, lambda name: -1 - int(name))
        return self.scheduler.update_from_output(output, result).values()


def _name(i: int) -> str:
    """Of a request; vLLM orders by name what has one priority and one arrival."""
    return f"{i:09}"
