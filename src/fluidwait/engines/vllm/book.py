"""What the plug-in knows of the engine's requests from step to step: slots, those in service, batches on their way."""

from __future__ import annotations

from collections import deque

import numpy as np
from vllm.v1.request import RequestStatus

from fluidwait.engines.v1.columns import FLYING, KIND, advance
from fluidwait.engines.v1.decision import Decision, came_at, longer_mean
from fluidwait.engines.vllm import clock
from fluidwait.engines.vllm.preparation import Preparation
from fluidwait.engines.vllm.requests import RequestTable

NOBODY = np.zeros(0, dtype=np.uint64)
_NO_PROGRESS = np.zeros((0, 5), dtype=np.int64)


class _Flight:
    """A batch on its way: when it was planned, and what the estimates need to know about it."""

    __slots__ = ("output", "planned", "slots", "tokens", "kv_tokens")

    def __init__(self, output, planned: float, slots: np.ndarray, tokens: int, kv_tokens: int):
        self.output, self.planned, self.slots = output, planned, slots
        self.tokens, self.kv_tokens = tokens, kv_tokens


class Book:
    """Keeps the table of ``engine``'s requests, and tells ``preparation`` what the traffic is like."""

    def __init__(self, engine, preparation: Preparation, requests: int):
        self.engine, self.preparation, self.table = engine, preparation, RequestTable()
        self.last_step = clock.monotonic()  # s, when the last step was planned
        self.batch_time = 0.0  # s, average over the last ten batches or so
        self._last_end = 0.0  # s, when the latest batch ended
        self.flights: deque[_Flight] = deque()
        self._running = np.zeros(requests, dtype=np.uint64)
        self.slots = self._running[:0]  # of the running requests in their order; `_running` has room for more
        self.held = NOBODY  # slots of residents that the last plan paused and that no batch in flight computes for
        self.held_since = 0.0
        self.stale = False  # the table lags behind the engine: steps were taken without a plan

    # --- requests come and go -----------------------------------------------------------------------------------------

    def arrived(self, request) -> None:
        """A request has come to the engine; or the next input of a streaming session, which the table has."""
        if request.request_id in self.engine.requests:
            return
        now = clock.monotonic()
        self._forget(request.request_id)  # the last one of this name, if it ended since the last step
        self._add(request, self._came_at(request, now))
        self.preparation.traffic.arrived(now)

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
        slot = self.table.add(request, came, self.engine.max_model_len)
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
        for name in sorted(self.engine.finished_req_ids):  # a set of names has another order in every process
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Forget the request of this name, if there is one and it has ended: another one may have its name by now."""
        slot = self.table.slot_of.get(name)
        if slot is None or not self.table.request[slot].is_finished():
            return
        request = self.table.remove(name)
        if not self.preparation.learns or request.status == RequestStatus.FINISHED_ABORTED:
            return
        if request.num_output_tokens:
            self.preparation.traffic.finished(request.num_prompt_tokens, request.num_output_tokens)

    # --- those in service ---------------------------------------------------------------------------------------------

    def read_running(self) -> None:
        """Read the running requests from the engine."""
        self._note(self.engine.running)
        self.table.read(self.slots.tolist(), self.engine.block_size)
        self.stale = False

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

    def without_a_plan(self, output, now: float) -> None:
        """vLLM went first come, first served: the table is read anew when there is a plan again."""
        self.stale = True
        self.held = NOBODY
        self.took_off(output, now)

    def as_planned(self, now: float, output, decision: Decision, residents, tokens, prefilled, newcomers) -> None:
        """Bring the table to the state after a step that went as planned; ``prefilled`` are slots."""
        table = self.table
        changed = prefilled.tolist() if decision.prefilled else []
        if newcomers:
            changed += [self.slot(request) for request in newcomers]
        progress = table.progress(changed) if changed else _NO_PROGRESS
        running, inside = len(self.engine.running), len(self.slots)
        self._room_for(inside + len(newcomers))
        paused = decision.residents - decision.served
        flying = np.empty(decision.served + len(newcomers), dtype=np.uint64)
        held = np.empty(paused, dtype=np.uint64) if paused else NOBODY
        kv_tokens, held_now = advance(
            table.counts,
            table.times,
            now,
            self.engine.block_size,
            residents,
            tokens,
            progress,
            decision.prefilled,
            flying,
            held,
            self._running[inside:],
        )
        self.slots = self._running[: inside + len(newcomers)]
        self.held, self.held_since = held[:held_now], now
        if len(self.slots) != running:  # some were preempted
            self._note(self.engine.running)
        if len(flying):
            self._take_off(output, now, flying, kv_tokens)

    def read_anew(self, now: float, output, residents, tokens, newcomers: list) -> None:
        """The same after a step in which vLLM did otherwise: preempted, put prefills off, ran out of budget."""
        table = self.table
        table.enter(self.slots_of(newcomers).tolist(), now)
        self.read_running()
        self.took_off(output, now)
        paused = residents[tokens == 0]
        self.held, self.held_since = paused[table.counts[FLYING, paused] == 0], now

    def took_off(self, output, now: float) -> None:
        """Take note of a batch that was not planned here."""
        names = output.num_scheduled_tokens
        if names:
            slots = self.slots_of([self.engine.requests[name] for name in names])
            self.table.fly(slots, 1)
            kv_tokens = sum(self.engine.requests[name].num_computed_tokens for name in names)
            self._take_off(output, now, slots, kv_tokens)

    def _take_off(self, output, now: float, slots: np.ndarray, kv_tokens: int) -> None:
        self.flights.append(_Flight(output, now, slots, output.total_num_scheduled_tokens, kv_tokens))

    def landed(self, output) -> None:
        """A batch has ended: its requests are no longer in flight, and its duration is known."""
        now = clock.monotonic()
        while self.flights:
            flight = self.flights.popleft()
            self.table.fly(flight.slots, -1)
            if flight.output is output:
                took = now - max(flight.planned, self._last_end)
                self.batch_time = longer_mean.py_func(self.batch_time, took)
                if self.preparation.learns:
                    self.preparation.traffic.iterated(flight.tokens, flight.kv_tokens, took)
                break
        self._last_end = now

    def warm_up(self) -> None:
        """Compile (or load) what a step needs, before the first request."""
        nothing = np.zeros(0, dtype=np.int64)
        counts, times = self.table.counts, self.table.times
        advance(counts, times, 0.0, 1, NOBODY, nothing, _NO_PROGRESS, 0, NOBODY, NOBODY, NOBODY)
        self.table.read([], 1)
        self.table.enter([], 0.0)
