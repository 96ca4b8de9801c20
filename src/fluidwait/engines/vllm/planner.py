"""Asks the policy for a plan for the engine's requests; the knobs in force, and their rules in numbers."""

from __future__ import annotations

import numpy as np
from vllm.v1.core.sched.interface import PauseState

from fluidwait.engines.v1.decision import (
    ADMIT,
    BATCH_TOKENS,
    BLOCK_SIZE,
    BY_PRIORITY,
    CHUNK,
    DRAINING,
    EXTRA,
    FREE,
    ORDER,
    PREFILLED,
    REFUSED,
    ROOM,
    RULE_ROWS,
    RUNNING,
    STEP_ROWS,
    STOCK_CHUNK,
    TOKENS,
    WATERMARK,
    WHOLE_PROMPTS,
    WORK_ROWS,
    Decision,
    compiled,
)
from fluidwait.engines.vllm.book import NOBODY, Book
from fluidwait.engines.vllm.preparation import Prepared
from fluidwait.engines.vllm.requests import machine_code
from fluidwait.engines.vllm.stock import Stock
from fluidwait.policies import Policy


class Planner:
    """Decides for the requests of an engine as ``policy`` says."""

    def __init__(self, policy: Policy, stock: Stock, book: Book):
        self.policy, self.stock, self.book = policy, stock, book
        self._compiled = compiled(policy.module)
        book.compile()
        self._step = np.zeros(STEP_ROWS, dtype=np.int64)
        self._rules = np.zeros(RULE_ROWS, dtype=np.int64)
        self._heads: list = []  # of the queue, at the last step
        self._waiting = NOBODY  # their slots
        self._reserve(stock.requests)
        self.refused = False  # the last plan held all residents for admissions for which vLLM had no room

    def adopt(self, prepared: Prepared) -> None:
        """Put knobs in force."""
        policy, stock, knobs = self.policy, self.stock, prepared.knobs
        limits = policy.limits(knobs)
        self._knobs, self._memory = knobs, np.zeros(policy.memory_size(knobs), dtype=np.int64)
        self._last_stage = policy.longest_output(knobs, np.arange(len(prepared.law.prompt)))  # by type
        self.depth = max(policy.queue_depth(knobs), 1)
        rules = self._rules
        rules[EXTRA], rules[WATERMARK], rules[BLOCK_SIZE] = stock.extra, stock.watermark, stock.engine.block_size
        rules[BATCH_TOKENS], rules[STOCK_CHUNK] = stock.tokens, stock.chunk
        rules[CHUNK] = stock.limit_chunks(limits.chunk)
        rules[WHOLE_PROMPTS], rules[BY_PRIORITY] = not limits.splits_prompts, stock.by_priority
        self._ask = machine_code(self._compiled, *self._arguments(0.0))  # knobs of another type are another function

    def decide(self, now: float, heads: list) -> Decision:
        """Ask the policy, with the columns that it reads up to date."""
        book, stock, step = self.book, self.stock, self._step
        engine = stock.engine
        running = len(engine.running)
        if max(running, len(heads)) > len(self._residents):
            self._reserve(2 * max(running, len(heads)))
        if book.stale:
            book.read_running()
        if heads != self._heads:
            self._heads, self._waiting = heads, book.slots_of(heads)
        self.room = stock.room
        step[DRAINING], step[RUNNING] = engine.pause_state != PauseState.UNPAUSED, running
        step[FREE], step[ROOM], step[REFUSED] = stock.free, self.room, self.refused
        decision = self._ask(*self._arguments(now))
        while decision.known != running:
            book.read_running()  # since the last step requests have come to run, not only left
            decision = self._ask(*self._arguments(now))
        book.decided(running)
        return decision

    def _arguments(self, now: float) -> tuple:
        """Those of :func:`fluidwait.engines.v1.decision.decide`."""
        book = self.book
        return (
            now,
            now - book.held_since,
            self._step,
            book.slots,
            book.held,
            self._waiting,
            book.table.times,
            book.table.counts,
            self._residents,
            self._work,
            self._last_stage,
            self._rules,
            self._knobs,
            self._memory,
        )

    # --- what was decided ---------------------------------------------------------------------------------------------

    def residents(self, decision: Decision) -> np.ndarray:
        """Slots of the running requests that still have tokens to compute."""
        return self._residents[: decision.residents]

    def tokens(self, decision: Decision) -> np.ndarray:
        """Their planned tokens."""
        return self._work[TOKENS, : decision.residents]

    def prefilled(self, decision: Decision) -> np.ndarray:
        """Slots of the residents in prefill that get tokens."""
        return self._work[PREFILLED, : decision.prefilled]

    def handed(self, decision: Decision) -> list:
        """The requests that vLLM is to see as running."""
        if decision.ordered < 0:
            return self.stock.engine.running
        requests = self.book.table.request
        return [requests[slot] for slot in self._work[ORDER, : decision.ordered].tolist()]

    def entering(self, decision: Decision, heads: list) -> list:
        """Those of the queue's head that are admitted."""
        return [heads[i] for i in self._work[ADMIT, : decision.admitted].tolist()] if decision.admitted else []

    def _reserve(self, requests: int) -> None:
        """Work space for so many residents, and waiting requests within the policy's view."""
        self._work = np.zeros((WORK_ROWS, requests), dtype=np.int64)
        self._residents = np.zeros(requests, dtype=np.uint64)

    def warm_up(self, now: float) -> None:
        """Compile (or load) the policy before the first request."""
        self.decide(now, [])
