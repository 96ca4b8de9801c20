"""What a plan needs to know of the engine's requests, from step to step: slots, those in service, those held."""

from __future__ import annotations

import numpy as np

from fluidwait.engines.v1.columns import BATCH, KIND, advance
from fluidwait.engines.v1.decision import Decision, came_at
from fluidwait.engines.vllm import clock
from fluidwait.engines.vllm.preparation import Preparation
from fluidwait.engines.vllm.requests import RequestTable, machine_code
from fluidwait.engines.vllm.watch import Watch

NOBODY = np.zeros(0, dtype=np.uint64)
_NO_PROGRESS = np.zeros((0, 5), dtype=np.int64)


class Book:
    """Keeps the table of ``engine``'s requests; ``watch`` knows which batches are on their way."""

    def __init__(self, engine, preparation: Preparation, watch: Watch, requests: int):
        self.engine, self.preparation, self.watch, self.table = engine, preparation, watch, RequestTable()
        self.last_step = clock.monotonic()  # s, when the last step was planned
        self._running = np.zeros(requests, dtype=np.uint64)
        self.slots = self._running[:0]  # of the running requests in their order; `_running` has room for more
        self.held = NOBODY  # slots of residents that the last plan paused and that no batch in flight computes for
        self.held_since = 0.0
        self.stale = False  # the table lags behind the engine: steps were taken without a plan

    # --- requests come and go -----------------------------------------------------------------------------------------

    def arrived(self, request, now: float) -> None:
        """A request comes to the engine, which takes it in at ``now`` (s)."""
        if request.request_id in self.table.slot_of:  # the last one of this name, which ended since the last step
            self._forget(request.request_id)
        self._add(request, self._came_at(request, now))

    def _came_at(self, request, now: float) -> float:
        """When the request came (s, monotonic clock): during the batch before, for which the engine let it wait.

        The front end's clock says it.
        """
        return came_at.py_func(now, clock.wall() - request.arrival_time, self.last_step)

    def slot(self, request) -> int:
        """The slot of a request; a new one when it is not known."""
        slot = self.table.slot_of.get(request.request_id)
        return self._add(request, clock.monotonic()) if slot is None else slot

    def slots_of(self, requests: list) -> np.ndarray:
        """The slots of requests, uint64."""
        slots, known = np.empty(len(requests), dtype=np.uint64), self.table.slot_of
        for k, request in enumerate(requests):  # np.array of a list takes far longer, when few and not in a warm loop
            slot = known.get(request.request_id)
            slots[k] = self.slot(request) if slot is None else slot
        return slots

    def _add(self, request, came: float) -> int:
        allowed = self.preparation.allowed
        slot = self.table.add(request, came, self.engine.max_model_len, None if allowed is None else next(allowed))
        if self.preparation.policy.by_type:
            self.table.counts[KIND, slot] = self.preparation.nearest_type(request.num_prompt_tokens, request.max_tokens)
        return slot

    def renew(self, newcomers: list, now: float) -> None:
        """With every input a streaming session starts anew: it has other limits, and nobody held it in between."""
        for request in newcomers:
            if getattr(request, "resumable", False):
                self.table.renew(self.slot(request), now, self.engine.max_model_len)

    def forget_finished(self) -> None:
        """Forget the requests that have ended."""
        for name in self.engine.finished_req_ids:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Forget the request of this name, if there is one and it has ended: another one may have its name by now."""
        slot = self.table.slot_of.get(name)
        if slot is not None and self.table.request[slot].is_finished():
            self.table.remove(name)

    # --- those in service ---------------------------------------------------------------------------------------------

    def read_running(self) -> None:
        """Read the running requests from the engine."""
        self._note(self.engine.running)
        self.table.read(self.slots.tolist(), self.engine.block_size)
        if self.stale:
            for number, (output, _) in enumerate(self.watch.flights, start=self.watch.ended + 1):
                self._mark(output, number)
            self.stale = False

    def _mark(self, output, number: int) -> None:
        """The requests of ``output`` are in the batch of this number."""
        known = self.table.slot_of
        slots = [known[name] for name in output.num_scheduled_tokens if name in known]
        self.table.counts[BATCH, slots] = number

    def _note(self, running: list) -> None:
        """These are the running requests now."""
        self._room_for(len(running))
        self._running[: len(running)] = self.slots_of(running)
        self.slots = self._running[: len(running)]

    def _room_for(self, requests: int) -> None:
        if requests > len(self._running):
            known = len(self.slots)
            self._running = np.concatenate([self.slots, np.zeros(2 * requests - known, dtype=np.uint64)])
            self.slots = self._running[:known]

    def decided(self, running: int) -> None:
        """A plan was made for these running requests: who has left is known, and how long the others were held."""
        if running != len(self.slots):
            self.slots = self.slots[:running]
        self.held = NOBODY

    # --- after vLLM's step --------------------------------------------------------------------------------------------

    def without_a_plan(self) -> None:
        """vLLM took a step by itself: the table is read anew when there is a plan again."""
        self.stale = True
        self.held = NOBODY

    def as_planned(self, now: float, decision: Decision, residents, tokens, prefilled, newcomers: list) -> None:
        """Bring the table to the state after a step that went as planned; ``prefilled`` are slots."""
        table, running, inside = self.table, len(self.engine.running), len(self.slots)
        changed = prefilled.tolist() if decision.prefilled else []
        if newcomers:
            changed += self.slots_of(newcomers).tolist()
            self._room_for(inside + len(newcomers))
        paused = decision.residents - decision.served
        held = np.empty(paused, dtype=np.uint64) if paused else NOBODY
        held_now = self._advance(
            table.counts,
            table.times,
            now,
            self.engine.block_size,
            residents,
            tokens,
            table.progress(changed) if changed else _NO_PROGRESS,
            decision.prefilled,
            self.watch.newest,
            self.watch.ended,
            held,
            self._running[inside:],
        )
        self.held, self.held_since = held[:held_now], now
        self.slots = self._running[: inside + len(newcomers)]
        if len(self.slots) != running:  # some were preempted
            self._note(self.engine.running)

    def read_anew(self, now: float, output, residents, tokens, newcomers: list) -> None:
        """The same after a step in which vLLM did otherwise: preempted, put prefills off, ran out of budget."""
        table = self.table
        table.enter(self.slots_of(newcomers).tolist(), now)
        self.read_running()
        if output.total_num_scheduled_tokens:
            self._mark(output, self.watch.newest)
        paused = residents[tokens == 0]
        self.held, self.held_since = paused[table.counts[BATCH, paused] <= self.watch.ended], now

    def compile(self) -> None:
        """Compile (or load) what a step needs, before the first request."""
        nothing, counts, times = np.zeros(0, dtype=np.int64), self.table.counts, self.table.times
        arguments = (counts, times, 0.0, 1, NOBODY, nothing, _NO_PROGRESS, 0, 0, 0, NOBODY, NOBODY)
        self._advance = machine_code(advance, *arguments)
        self.table.read([], 1)
        self.table.enter([], 0.0)
