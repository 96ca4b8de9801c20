"""The gate before vLLM's scheduler: which of the engine's requests take part in the next step.

Each step the engine's requests become a policy's View, the policy (the very code that the simulator runs) writes its
plan, and vLLM's own ``schedule`` is called with only the requests that the plan serves in ``waiting`` and ``running``.
Afterwards the others are put back. Everything else, memory, preemption, prefix caching, priorities, aborts, is
vLLM's: between two calls its state is what it would be without us, except for what has not been scheduled yet.

A policy whose rule is vLLM's own within ``engine_limits`` needs none of this: vLLM schedules by itself, with three
numbers of the policy's. What knobs set in the engine is put back when they go.

With asynchronous scheduling a step is planned while the one before runs; tokens in flight count as generated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from vllm.v1.core.sched.interface import PauseState

from fluidwait.device.timing import linear
from fluidwait.engines.core import serving
from fluidwait.engines.feasibility import check_evictions
from fluidwait.engines.v1.decision import nap
from fluidwait.engines.vllm import clock, patches  # noqa: F401
from fluidwait.engines.vllm.book import Book
from fluidwait.engines.vllm.planner import Planner
from fluidwait.engines.vllm.preparation import Preparation, Prepared
from fluidwait.engines.vllm.queue import defer, read_head
from fluidwait.engines.vllm.report import Report
from fluidwait.engines.vllm.settings import SchedulerSettings
from fluidwait.engines.vllm.stock import Stock
from fluidwait.engines.vllm.watch import Watch
from fluidwait.policies import Policy
from fluidwait.workload import Requests


class Gate:
    """Holds and pauses requests of ``engine``, a vLLM scheduler, as ``policy`` says.

    Args:
        prepare: what makes the policy's preparation from the same arguments.

    Raises:
        ConfigError: the policy cannot be prepared for this engine, evicts by itself, or has a mistake in its file.
    """

    def __init__(
        self, engine, policy: Policy, settings: SchedulerSettings, prepare: Callable[..., Preparation] = Preparation
    ):
        check_evictions(policy)
        self.engine, self.policy, self.stock = engine, policy, Stock(engine)
        self.preparation = prepare(policy, settings, self.stock.size)
        self.preparation.running = self._running
        self._prepared: Prepared | None = None  # what is in force
        self.watch = Watch(engine, self.preparation)
        self.book = Book(engine, self.preparation, self.watch, self.stock.requests)
        first = self.preparation.prepared or self.preparation.rehearsal
        if prepare is Preparation and policy.file is not None and first is not None:
            _rehearse(policy, first, self.stock)
        self.planner = None if policy.within_engine_limits else Planner(policy, self.stock, self.book)
        self.report = Report(self.stock, self.preparation, settings.log_interval)
        self.counts, self.landed = self.stock.counts, self.watch.landed
        self._warm_up(first)

    def arrived(self, request) -> None:
        """A request has come to the engine; or the next input of a streaming session, which is known."""
        if request.request_id in self.engine.requests:
            return
        now = clock.monotonic()
        self.watch.arrived(request, now)
        if self.planner is not None:
            self.book.arrived(request, now)

    def close(self) -> None:
        self.preparation.close()
        self.report.status.remove()

    def _running(self) -> np.ndarray:
        """Prompt tokens and generated tokens of the running requests, int64[N, 2]."""
        lengths = [(request.num_prompt_tokens, request.num_output_tokens) for request in self.engine.running]
        return np.array(lengths, dtype=np.int64).reshape(-1, 2)

    def step(self, schedule):
        """One step of the engine; ``schedule()`` is vLLM's own."""
        now = self.book.last_step = clock.monotonic()
        if self.engine.finished_req_ids:
            self.watch.forget_finished()
            self.book.forget_finished()
        prepared = self.preparation.current(now)
        if prepared is not self._prepared:
            self._adopt(prepared)
        if prepared is None or self.engine.pause_state == PauseState.PAUSED_ALL:
            output = schedule()
            self.watch.took_off(output, now)
            self.book.without_a_plan()
        elif self.planner is None:
            output = self._within_limits(now, schedule)
        else:
            output = self._as_planned(self.planner, now, schedule)
        if now >= self.report.due:
            self.report.tell(now)
        return output

    def _within_limits(self, now: float, schedule):
        """vLLM's own step, with no larger a batch and no more requests than the policy's: but no decode waits."""
        before = len(self.engine.running)
        output = self.stock.within(max(self._batch_tokens, before), self._spare, self._requests, schedule)
        self.watch.took_off(output, now)
        inside = len(self.engine.running)
        entered = max(inside - before, 0)  # in one step vLLM preempts or admits
        self.report.count(inside, 0, 0, entered, not output.total_num_scheduled_tokens)
        return output

    def _as_planned(self, planner: Planner, now: float, schedule):
        """vLLM's own step over the requests that the policy's plan serves."""
        book, watch = self.book, self.watch
        head = read_head(self.engine, planner.depth, self.stock.by_priority)
        for request in head.preempted:
            book.table.evicted(book.slot(request))
        decision = planner.decide(now, head.heads)
        residents, tokens = planner.residents(decision), planner.tokens(decision)
        entering = planner.entering(decision, head.heads)
        paused = decision.served < decision.residents
        hold_back = head.more or decision.admitted < len(head.heads) or (paused and bool(head.passed))
        if decision.ordered < 0 and planner.room <= 0:
            hold_back = False  # it sees itself that nobody can enter
        if hold_back:
            defer(self.engine, head.passed)
            entering += head.failed
        output, newcomers = self.stock.over(planner.handed(decision), entering, hold_back, decision.tokens, schedule)
        watch.took_off(output, now)
        if newcomers:
            book.renew(newcomers, now)
        # where memory is short, who goes is up to vLLM
        if decision.victims == 0 and len(output.num_scheduled_tokens) == decision.served + len(newcomers):
            book.as_planned(now, decision, residents, tokens, planner.prefilled(decision), newcomers)
        else:
            book.read_anew(now, output, residents, tokens, newcomers)
        empty, pauses = not output.num_scheduled_tokens, decision.residents - decision.served
        self.report.count(decision.residents, pauses, decision.admitted, len(newcomers), empty)
        planner.refused = empty and decision.served == 0 and min(decision.admitted, decision.residents) > 0
        if empty and not watch.flights and (self.engine.running or self.engine.waiting):
            clock.sleep(nap.py_func(watch.batch_time, decision.wake - clock.monotonic()))
        return output

    def _adopt(self, prepared: Prepared | None) -> None:
        """Put other knobs in force."""
        self.stock.restore()
        self._prepared = prepared
        self.report.adopted(prepared)
        if prepared is None:
            return
        if self.planner is not None:
            self.planner.adopt(prepared)
            return
        self._batch_tokens, self._spare = self.policy.engine_limits(prepared.knobs, self.engine.block_size)
        self._requests = self.policy.limits(prepared.knobs).requests
        self.stock.leave_free(self._spare)

    def _warm_up(self, first: Prepared | None) -> None:
        """Compile (or load) the policy before the first request; nothing of it stays in the engine."""
        if self.planner is None or first is None:
            return
        self.planner.adopt(first)
        self.planner.warm_up(clock.monotonic())
        self.stock.restore()  # the first step puts in force what there is


def _rehearse(policy: Policy, prepared: Prepared, stock: Stock) -> None:
    """Find mistakes in a policy of the user's, on a few requests of the lengths that it was prepared for."""
    from fluidwait.engines.rehearsal import OUTPUT, REQUESTS, rehearse

    n, law, block_size = REQUESTS // 2, prepared.law, stock.engine.block_size
    kind = np.arange(n) % len(law.prompt) if policy.by_type else np.zeros(n, dtype=np.int64)
    most = min(stock.engine.max_model_len, (stock.blocks - stock.watermark - 1) * block_size)
    output = np.clip(law.output[kind].astype(np.int64), 1, min(OUTPUT, most - 1))
    prompt = np.clip(law.prompt[kind].astype(np.int64), 1, most - output)
    requests = Requests(np.arange(n) / 100, prompt, output, kind)
    rehearse(requests, policy, prepared.knobs, linear(0.01, 0.0), serving(stock.blocks, block_size))
