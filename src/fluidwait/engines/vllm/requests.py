"""What the policies may know about the engine's requests, as arrays by slot: the columns of a policy's View.

Every request of the engine has a slot from its arrival until after its end. Slots are taken again oldest first, so one
that the last plan still refers to is not handed out.

All columns are rows of two arrays, which compiled code reads and writes: a call costs by the array it is handed, and
NumPy's ``column[slots]`` would let go of Python's lock, so that the threads of the engine that then send its last
tokens keep the next batch waiting.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numba import njit, typeof

SPARE = 64  # slots always left free

# rows of RequestTable.counts, int64
LIMIT = 0  # most output tokens it may get
KIND = 1  # request type
GOAL = 2  # tokens to prefill
CACHED = 3  # tokens computed, those in flight included
GENERATED = 4  # output tokens, those in flight included
STAGE = 5  # generated, no further than the last stage that the policy knows
HELD = 6  # KV blocks, those of the whole prompt once admitted
BATCH = 7  # number of the newest batch that holds it
ALIVE = 8  # 1 until its end
PRIORITY = 9  # the engine's, the least first
ROWS = 10

# rows of RequestTable.times, float64, s
ARRIVAL = 0  # on the monotonic clock
SERVICE = 1  # not held outside batches
HELD_FOR = 2  # held outside batches while resident or before
SENT = 3  # on the front end's clock, by which the engine ranks requests of one priority
TIMES = 4


class RequestTable:
    """``counts`` int64[ROWS, slots] and ``times`` float64[TIMES, slots], rows as above; ``slot_of`` by request id."""

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

    def add(self, request, now: float, longest: int) -> int:
        """Slot of a request that arrives at ``now`` (s); the same one if it is known. ``longest``: prompt + output."""
        slot = self.slot_of.get(request.request_id)
        if slot is not None:
            return slot
        if len(self._free) <= SPARE:
            self._grow(max(len(self.request), 2 * SPARE))
        slot = self._free.popleft()
        self.slot_of[request.request_id] = slot
        prompt, new = request.num_prompt_tokens, self._new
        new[LIMIT], new[GOAL], new[PRIORITY] = min(request.max_tokens, longest - prompt), prompt, request.priority
        self.counts[:, slot] = new
        self.times[:, slot] = (now, 0.0, 0.0, request.arrival_time)
        self.request[slot] = request
        return slot

    def renew(self, slot: int, now: float, longest: int) -> None:
        """The request in the slot starts at ``now`` (s), with the limits that it has now."""
        request = self.request[slot]
        self.counts[LIMIT, slot] = min(request.max_tokens, longest - request.num_prompt_tokens)
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


def machine_code(function, *arguments):
    """A compiled function for arguments of just these types, which its calls no longer look at."""
    types = tuple(map(typeof, arguments))
    function.compile(types)
    return function.get_overload(types)


@njit(cache=True)
def read(counts, progress, block_size):
    """Write ``progress``, rows as of :meth:`RequestTable.progress`."""
    for k in range(len(progress)):
        _write(counts, progress[k], block_size)


@njit(cache=True)
def enter(counts, times, now, progress):
    """Those of ``progress``, as of :meth:`RequestTable.progress`, entered service at ``now`` (s)."""
    for k in range(len(progress)):
        _enter(counts, times, now, progress[k])


@njit(cache=True)
def advance(counts, times, now, block_size, residents, tokens, progress, prefilled, batch, ended, paused, running):
    """Batch number ``batch`` with ``tokens`` per resident took off at ``now`` (s) and did what was planned.

    Decodes are one token further. How far prefills got is the engine's to say: ``progress``, as of
    :meth:`RequestTable.progress`, has ``prefilled`` residents, then those who entered service with this batch, and up
    to then were held, but for earlier service before an eviction. Writes the slots of those into ``running``, and of
    those that are held from now on, because no batch after number ``ended`` computes for them, into ``paused``.

    Returns the number in ``paused``.
    """
    held = 0
    for k in range(len(residents)):
        r = residents[k]
        if tokens[k] == 0:
            if counts[BATCH, r] <= ended:
                paused[held] = r
                held += 1
            continue
        counts[BATCH, r] = batch
        if counts[CACHED, r] >= counts[GOAL, r]:
            counts[HELD, r] += int(counts[CACHED, r] >= counts[HELD, r] * block_size)
            counts[CACHED, r] += 1
            counts[GENERATED, r] += 1
    for k in range(len(progress)):
        r = progress[k, 0]
        if k >= prefilled:
            _enter(counts, times, now, progress[k])
            counts[BATCH, r] = batch
            running[k - prefilled] = r
        _write(counts, progress[k], block_size)
    return held


@njit(cache=True)
def _blocks(tokens, block_size):
    """As in the policy contract; written out, since Numba's cache on disk notices changes of this file only."""
    return (tokens + block_size - 1) // block_size


@njit(cache=True)
def _enter(counts, times, now, progress):
    r = progress[0]
    times[HELD_FOR, r] = now - times[ARRIVAL, r] - times[SERVICE, r]  # an eviction does not take service away
    counts[GOAL, r] = progress[3]


@njit(cache=True)
def _write(counts, progress, block_size):
    r, computed, generated, in_all, in_prefill = progress[0], progress[1], progress[2], progress[3], progress[4]
    counts[CACHED, r] = computed
    counts[GENERATED, r] = generated
    counts[GOAL, r] = in_all if in_prefill else min(counts[GOAL, r], computed)
    counts[HELD, r] = _blocks(max(counts[GOAL, r], computed), block_size)
