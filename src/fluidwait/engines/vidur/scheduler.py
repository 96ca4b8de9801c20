"""A fluidwait policy as a replica scheduler of Vidur."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from vidur.entities import Batch
from vidur.scheduler.replica_scheduler.base_replica_scheduler import BaseReplicaScheduler

from fluidwait.engines import core, simulator
from fluidwait.engines.core import EngineError, admission_blocks, new_state


class PolicyScheduler(BaseReplicaScheduler):
    """Asks the policy of the job for plans and carries them out."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._job = job = self._config.job
        self._state = new_state(job.requests, job.semantics)
        self._memory = np.zeros(job.policy.memory_size(job.knobs), dtype=np.int64)
        self._decide = decide_for(job.policy.module)
        self._head = self._tail = self._residents = 0
        self._wakes: set[float] = set()
        self._fruitless, self._most_fruitless = 0, core.most_fruitless(self._state)

    @property
    def num_pending_requests(self) -> int:
        return self._tail - self._head

    def get_pending_requests(self):
        return [self._job.replayed[i] for i in self._state.waiting[self._head : self._tail]]

    def add_request(self, request) -> None:
        self._state.waiting[self._tail] = request.index
        self._tail += 1
        self._fruitless = 0

    def on_batch_end(self, batch) -> None:
        super().on_batch_end(batch)
        state, kept = self._state, 0
        for request in batch.requests:
            r, processed = request.index, request.num_processed_tokens
            state.cached[r] = request.cached
            state.generated[r] = max(processed, request.num_prefill_tokens) - state.prompt[r]
            state.service[r] = request.execution_time
            if request.completed:
                self.free(request.id)
                state.held[r] = 0
                self._fruitless = 0
        for k in range(self._residents):
            r = state.resident[k]
            if not self._job.replayed[r].completed:
                state.resident[kept] = r
                kept += 1
        self._residents = kept

    def _get_next_batch(self, time):
        before = self._residents
        admitted, wake = self._plan(time)
        served = self._serve() + self._admit(admitted)
        self._fruitless += not served or self._residents - admitted < before
        if self._fruitless > self._most_fruitless:
            where = simulator.first(self._state, self._head, self._tail, self._residents)
            raise EngineError("vidur: " + self._explain(simulator.FRUITLESS, where, time))
        if served:
            return self._batch(served)
        if time < wake < np.inf and wake not in self._wakes:
            self._wakes.add(wake)
            self._job.wake_at(wake, self._replica_id)
        return None

    def _plan(self, time) -> tuple[int, float]:
        """Ask the policy and restart what had to be evicted; returns how many it admits, and when to ask again."""
        state, semantics, before = self._state, self._job.semantics, self._residents
        free = semantics.blocks - self._num_allocated_blocks
        draining = self._tail == len(state.arrival)
        admitted, wake, free, self._head, self._residents = self._decide(
            self._job.knobs,
            self._memory,
            state,
            semantics,
            float(time),
            draining,
            free,
            self._head,
            self._tail,
            self._residents,
        )
        if admitted < 0:
            raise EngineError(self._explain(simulator.BAD_PLAN, -1, time))
        evicted = before - self._residents
        rejoined = self._tail - evicted if semantics.rejoins_last else self._head
        for r in state.waiting[rejoined : rejoined + evicted]:
            self._job.replayed[r].restart()
            self.free(self._job.replayed[r].id)
        return admitted, wake

    def _serve(self) -> list:
        """The planned residents with their tokens, and a block for every decode that needs one."""
        state, served = self._state, []
        for k in range(self._residents):
            r = state.resident[k]
            if state.tokens[k] == 0:
                continue
            if state.cached[r] >= state.held[r] * self._job.semantics.block_size:
                self.allocate(self._job.replayed[r].id, 1)
                state.held[r] += 1
            served.append((r, state.tokens[k]))
        return served

    def _admit(self, admitted: int) -> list:
        """The admitted requests with their first chunks, now resident and with their blocks."""
        state, served = self._state, []
        for i in range(admitted):
            r = state.waiting[self._head + state.admit[i]]
            state.held[r] = admission_blocks(self._job.semantics, state.goal[r])
            self.allocate(self._job.replayed[r].id, int(state.held[r]))
            state.resident[self._residents] = r
            self._residents += 1
            served.append((r, state.chunk[i]))
        core.close_gaps(state.waiting, state.admit, admitted, self._head)
        self._head += admitted
        return served

    def _batch(self, served: list) -> Batch:
        requests = [self._job.replayed[r] for r, _ in served]
        tokens = [int(q) for _, q in served]
        cached = [request.num_processed_tokens for request in requests]
        return Batch(self._replica_id, requests, tokens, [c + q for c, q in zip(cached, tokens, strict=True)])

    def _explain(self, status: int, where: int, time) -> str:
        return simulator.explain(status, where, time, self._job.policy.name, self._state)


decide: Any
"""Of the policy; :func:`core.specialise` puts it in the place of this name."""


@cache
def decide_for(module):
    """:func:`core.decide` compiled for one policy, callable from Python."""
    return core.specialise(_decide, module, [core, simulator])


def _decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents):
    return decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents)  # noqa: F821
