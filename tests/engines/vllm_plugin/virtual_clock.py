"""vLLM's real scheduler, its own or the plug-in, in virtual time: a batch takes what it takes on the calibrated A100.

No model runs. The loop is that of vLLM's engine core; between ``schedule()`` and ``update_from_output()`` with made-up
tokens the clock moves on by the iteration time of exactly that batch. The plug-in reads the same clock while
:func:`virtual_time` lasts, and its background thread computes at once, so that a run is the same every time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from fake_engine import computed_before, make_request, make_scheduler, model_output
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from fluidwait.device.timing import BatchSums, TimeModel, iteration_time
from fluidwait.engines.vllm import WaitScheduler
from fluidwait.engines.vllm import clock as plugin_clock
from fluidwait.engines.vllm import preparation as plugin_preparation
from fluidwait.workload import Requests

MOST_EMPTY = 100_000  # steps in a row that schedule nothing: more, and somebody is stranded


class Clock:
    """Stands for the module ``time``."""

    def __init__(self):
        self.now = 0.0  # s

    def monotonic(self) -> float:
        return 1000.0 + self.now

    def time(self) -> float:
        return 1e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class _AtOnce:
    """Stands for an executor with one thread."""

    def __init__(self, *_):
        pass

    def submit(self, function, *arguments) -> Future:
        done = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self, **_) -> None:
        pass


@contextmanager
def virtual_time() -> Iterator[Clock]:
    """The plug-in's clock, which moves only when told to."""
    clock = Clock()
    with patch.object(plugin_clock, "time", clock), patch.object(plugin_preparation, "ThreadPoolExecutor", _AtOnce):
        yield clock


class Served(NamedTuple):
    """What became of the requests."""

    first: np.ndarray  # f8[N], s, first token after arrival
    latency: np.ndarray  # f8[N], s
    preemptions: int
    iterations: int
    knobs: object  # of the plug-in's last plan; None without one

    def mean(self) -> float:
        """Of the middle half of the requests, s."""
        n = len(self.latency)
        return float(self.latency[n // 4 : 3 * n // 4].mean())

    def p99(self) -> float:
        return float(np.quantile(self.latency, 0.99))

    def ttft(self) -> float:
        """Mean over the middle half, s."""
        n = len(self.first)
        return float(self.first[n // 4 : 3 * n // 4].mean())


def serve(
    options: dict,
    requests: Requests,
    time_model: TimeModel,
    fluidwait=None,
    *,
    blocks: int,
    sequences: int = 256,
    tokens: int = 2048,
    depth: int = 1,
    **more,
) -> Served:
    """Serve the requests with vLLM's own scheduler, or with the plug-in when its entry ``fluidwait`` is given.

    ``options`` of the tiny model as in conftest; ``depth`` 2 is asynchronous scheduling.
    """
    own = AsyncScheduler if depth > 1 else Scheduler
    more = {
        "max_num_seqs": sequences,
        "max_num_batched_tokens": tokens,
        "max_model_len": 4096,
        "async_scheduling": depth > 1,
    } | more
    with virtual_time() as clock:
        cls = WaitScheduler if fluidwait else own
        scheduler = make_scheduler(options, cls, blocks=blocks, fluidwait=fluidwait, **more)
        try:
            return _Run(scheduler, requests, time_model, depth, clock).through()
        finally:
            scheduler.shutdown()


class _Run:
    def __init__(self, scheduler, requests: Requests, time_model: TimeModel, depth: int, clock: Clock):
        self.scheduler, self.requests, self.time_model, self.clock = scheduler, requests, time_model, clock
        self.depth = depth
        self.flights: deque = deque()  # (output, end in s), oldest first
        self.device_free = 0.0  # s
        self.sent = self.done = self.preemptions = self.iterations = self.empty = 0
        self.known: dict[str, object] = {}  # vLLM's request by name
        self.goal: dict[str, int] = {}  # tokens to prefill
        n = len(requests.arrival)
        self.first, self.latency = np.full(n, np.nan), np.full(n, np.nan)

    def through(self) -> Served:
        n, scheduler = len(self.requests.arrival), self.scheduler
        while self.done < n:
            self._arrivals()
            output = scheduler.schedule() if scheduler.has_requests() else None
            planned = output is not None and output.total_num_scheduled_tokens > 0
            if planned:
                self._take_off(output)
            elif output is not None and not self.flights:
                self._hand_back(output)
            if len(self.flights) >= self.depth or (self.flights and not planned):
                self._land()
            elif not self.flights:
                self._wait()
        gate = getattr(scheduler, "gate", None)
        plan = gate.preparation.prepared if gate else None
        return Served(self.first, self.latency, self.preemptions, self.iterations, plan.knobs if plan else None)

    def _arrivals(self) -> None:
        of = self.requests
        while self.sent < len(of.arrival) and of.arrival[self.sent] <= self.clock.now:
            i = self.sent
            arrived = float(1e9 + of.arrival[i])
            request = make_request(str(i), int(of.prompt[i]), int(of.output[i]), arrival=arrived)
            self.known[request.request_id] = request
            self.scheduler.add_request(request)
            self.sent += 1

    def _wait(self) -> None:
        """Until the next arrival; a scheduler that holds requests back has moved the clock by its own nap."""
        if self.sent < len(self.requests.arrival) and not self.scheduler.has_requests():
            self.clock.now = max(self.clock.now, float(self.requests.arrival[self.sent]))
        else:
            self.empty += 1
            assert self.empty < MOST_EMPTY, f"stranded: {self.scheduler.get_request_counts()}"

    def _take_off(self, output) -> None:
        self.empty = 0
        for new in output.scheduled_new_reqs:
            self.goal[new.req_id] = self.known[new.req_id].num_tokens
        for name in output.scheduled_cached_reqs.resumed_req_ids:
            self.goal[name] = self.known[name].num_tokens
        self.preemptions += len(output.preempted_req_ids or ())
        self.device_free = max(self.clock.now, self.device_free) + self._seconds(output)
        self.flights.append((output, self.device_free))
        self.iterations += 1

    def _seconds(self, output) -> float:
        computed = computed_before(output)
        tokens = kv = prefills = prefilled = squares = context = decodes = read = 0
        for name, new in output.num_scheduled_tokens.items():
            cached = computed[name]
            tokens += new
            kv += cached + new
            if cached < self.goal[name]:
                prefills += 1
                prefilled += new
                squares += new * new
                context += new * cached
            else:
                decodes += 1
                read += cached + 1
        return iteration_time(
            self.time_model, BatchSums(tokens, kv, prefills, prefilled, squares, context, decodes, read)
        )

    def _land(self) -> None:
        output, end = self.flights.popleft()
        self.clock.now = max(self.clock.now, end)
        for outputs in self._hand_back(output):
            for out in outputs.outputs:
                i = int(out.request_id)
                since = self.clock.now - self.requests.arrival[i]
                if out.new_token_ids and np.isnan(self.first[i]):
                    self.first[i] = since
                if out.finish_reason is not None:
                    self.latency[i] = since
                    self.done += 1

    def _hand_back(self, output):
        """Tell the scheduler what the batch gave: a token for each request that has no more to prefill."""
        result = model_output(output, self.goal, lambda: 7)
        return self.scheduler.update_from_output(output, result).values()
