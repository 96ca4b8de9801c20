"""The engine's requests by slot, and the columns of :mod:`fluidwait.engines.v1.columns` for them.

Every request of the engine has a slot from its arrival until after its end. Slots are taken again oldest first, so one
that the last plan still refers to is not handed out.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numba import typeof

from fluidwait.engines.v1.columns import (
    ALIVE,
    CACHED,
    GENERATED,
    GOAL,
    HELD,
    LIMIT,
    MAX_OUTPUT,
    PREDICTED,
    PRIORITY,
    ROWS,
    STAGE,
    TIMES,
    enter,
    read,
)

SPARE = 64  # slots always left free

PREDICTION = "predicted_output"
"""Of a request's ``extra_args`` (``vllm_xargs`` over HTTP): output tokens as the client predicts them."""


class RequestTable:
    """``counts`` int64[ROWS, slots] and ``times`` float64[TIMES, slots], rows as in ``columns``; slots by name."""

    # Rows of 1,024 would all lie in the same few sets of the processor's cache and drive each other out.
    def __init__(self, room: int = 1000):
        self.slot_of: dict[str, int] = {}
        self.request: list = []  # the engine's own, by slot
        self._free: deque[int] = deque()
        self.counts = np.zeros((ROWS, 0), dtype=np.int64)
        self.times = np.zeros((TIMES, 0))
        self._progress = np.zeros((0, 5), dtype=np.int64)  # work space
        self._new = np.zeros(ROWS, dtype=np.int64)  # the counts of a request that arrives
        self._new[ALIVE] = 1
        self._grow(room)

    def _grow(self, more: int) -> None:
        have = len(self.request)
        self.counts = np.concatenate([self.counts, np.zeros((ROWS, more), dtype=np.int64)], axis=1)
        self.times = np.concatenate([self.times, np.zeros((TIMES, more))], axis=1)
        self.request.extend([None] * more)
        self._free.extend(range(have, have + more))

    def add(self, request, now: float, longest: int, allowed: int | None = None) -> int:
        """Slot of a request that arrives at ``now`` (s); the same one if it is known.

        Args:
            longest: prompt + output at most, tokens.
            allowed: output tokens that its client allows, where those are not the engine's limit.
        """
        slot = self.slot_of.get(request.request_id)
        if slot is not None:
            return slot
        if len(self._free) <= SPARE:
            self._grow(max(len(self.request), 2 * SPARE))
        slot = self._free.popleft()
        self.slot_of[request.request_id] = slot
        prompt, new = request.num_prompt_tokens, self._new
        limit = min(request.max_tokens, longest - prompt)
        new[LIMIT], new[GOAL], new[PRIORITY] = limit, prompt, request.priority
        new[MAX_OUTPUT] = limit if allowed is None else allowed
        new[PREDICTED] = predicted_output(request, new[MAX_OUTPUT])
        self.counts[:, slot] = new
        self.times[:, slot] = (now, 0.0, 0.0, request.arrival_time)
        self.request[slot] = request
        return slot

    def renew(self, slot: int, now: float, longest: int) -> None:
        """The request in the slot starts at ``now`` (s), with the limits that it has now."""
        request = self.request[slot]
        limit = min(request.max_tokens, longest - request.num_prompt_tokens)
        self.counts[LIMIT, slot] = self.counts[MAX_OUTPUT, slot] = limit
        self.counts[PREDICTED, slot] = predicted_output(request, limit)
        self.times[:, slot] = (now, 0.0, 0.0, request.arrival_time)

    def remove(self, request_id: str):
        """Free the slot of a request and return the request; None if it is not known."""
        slot = self.slot_of.pop(request_id, None)
        if slot is None:
            return None
        request, self.request[slot] = self.request[slot], None
        self.counts[ALIVE, slot] = 0
        self._free.append(slot)
        return request

    def evicted(self, slot: int) -> None:
        """The engine dropped the request's KV cache: all that it has goes through prefill again."""
        request, counts = self.request[slot], self.counts
        counts[GOAL, slot] = request.num_tokens
        counts[GENERATED, slot] = counts[STAGE, slot] = request.num_output_tokens
        counts[CACHED, slot] = counts[HELD, slot] = 0

    def progress(self, slots: list[int]) -> np.ndarray:
        """What the engine says of running requests, int64[slots, 5]: slot, tokens computed, output tokens, all tokens,
        1 if in prefill."""
        if len(slots) > len(self._progress):
            self._progress = np.zeros((2 * len(slots), 5), dtype=np.int64)
        for k, slot in enumerate(slots):
            request, row = self.request[slot], self._progress[k]
            row[0], row[1] = slot, request.num_computed_tokens
            row[2] = request.num_output_tokens + request.num_output_placeholders
            row[3], row[4] = request.num_tokens, request.is_prefill_chunk
        return self._progress[: len(slots)]

    def read(self, slots: list[int], block_size: int) -> None:
        """Read the progress of running requests from the engine."""
        read(self.counts, self.progress(slots), block_size)

    def enter(self, slots: list[int], now: float) -> None:
        """They entered service at ``now`` (s); up to then they were held, but for earlier service."""
        enter(self.counts, self.times, now, self.progress(slots))


def predicted_output(request, most: int) -> int:
    """The client's prediction of its output, at most ``most`` tokens: its sampling parameters' extra argument.

    0 when there is none, or one that is no number of tokens.
    """
    extra = getattr(request.sampling_params, "extra_args", None)
    tokens = extra.get(PREDICTION) if extra else None
    return min(tokens, most) if type(tokens) is int and tokens > 0 else 0


def machine_code(function, *arguments):
    """A compiled function for arguments of just these types, which its calls no longer look at."""
    types = tuple(map(typeof, arguments))
    function.compile(types)
    return function.get_overload(types)
