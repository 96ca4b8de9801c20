"""Watches the engine for the estimates: requests that come and end, and batches, from their planning to their end."""

from __future__ import annotations

from collections import deque

from vllm.v1.request import Request, RequestStatus

from fluidwait.engines.v1.decision import longer_mean
from fluidwait.engines.vllm import clock
from fluidwait.engines.vllm.preparation import Preparation


class Watch:
    """Tells ``preparation`` what the traffic of ``engine`` is like; knows which batches are on their way.

    Batches are numbered from 1 in the order in which they are planned, which is that in which they end.
    """

    def __init__(self, engine, preparation: Preparation):
        self.engine, self.preparation = engine, preparation
        self.batch_time = 0.0  # s, average over the last ten batches or so
        self.flights: deque[tuple] = deque()  # batches on their way: (vLLM's output, when planned in s)
        self.newest = 0  # the newest batch
        self._last_end = 0.0  # s, when the latest batch ended
        self._inside: dict[str, Request] = {}  # the engine's requests by name, where their lengths are to be learned

    @property
    def ended(self) -> int:
        """The newest batch that has ended."""
        return self.newest - len(self.flights)

    def arrived(self, request, now: float) -> None:
        """A request comes at ``now`` (s)."""
        self.preparation.traffic.arrived(now)
        if self.preparation.learns:
            self._note_end(request.request_id)  # the last one of this name, if it ended since the last step
            self._inside[request.request_id] = request

    def forget_finished(self) -> None:
        """Note the lengths of the requests that have ended."""
        for name in sorted(self.engine.finished_req_ids):  # a set has another order in every process
            self._note_end(name)

    def _note_end(self, name: str) -> None:
        """Note the request of this name, if there is one and it has ended: another one may have its name by now."""
        request = self._inside.get(name)
        if request is None or not request.is_finished():
            return
        del self._inside[name]
        if request.status != RequestStatus.FINISHED_ABORTED and request.num_output_tokens:
            self.preparation.traffic.finished(request.num_prompt_tokens, request.num_output_tokens)

    def took_off(self, output, now: float) -> None:
        """A batch was planned at ``now`` (s)."""
        if output.total_num_scheduled_tokens:
            self.newest += 1
            self.flights.append((output, now))

    def landed(self, output) -> None:
        """A batch has ended: its duration is known."""
        now = clock.monotonic()
        while self.flights:
            flown, planned = self.flights.popleft()
            if flown is output:
                took = now - max(planned, self._last_end)
                self.batch_time = longer_mean.py_func(self.batch_time, took)
                if self.preparation.learns:
                    self.preparation.traffic.iterated(output.total_num_scheduled_tokens, kv_tokens(output), took)
                break
        self._last_end = now


def kv_tokens(output) -> int:
    """Tokens that the requests of a batch have computed when it ends."""
    before = sum(output.scheduled_cached_reqs.num_computed_tokens)
    before += sum(request.num_computed_tokens for request in output.scheduled_new_reqs)
    return before + output.total_num_scheduled_tokens
