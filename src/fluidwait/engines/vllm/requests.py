"""What the policies may know about the engine's requests, as arrays by slot: the columns of a policy's View.

Every request of the engine has a slot from its arrival until after its end. Slots are taken again oldest first, so one
that is still referred to by an iteration in flight is not handed out.

Columns are read and written by slots in compiled code, not with NumPy's ``column[slots]``: that lets go of Python's
lock, and the threads of the engine that then send its last tokens keep the next batch waiting.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numba import njit

SPARE = 64  # slots always left free


class RequestTable:
    """Columns by slot (int64 unless said otherwise); ``slot_of`` by request id."""

    def __init__(self, room: int = 1024):
        self.slot_of: dict[str, int] = {}
        self.request: list = []  # the engine's own, by slot
        self._free: deque[int] = deque()
        self.arrival = np.zeros(0)  # f8, s on the monotonic clock
        self.service = np.zeros(0)  # f8, s not held outside batches
        self.held_for = np.zeros(0)  # f8, s held outside batches while resident or before
        self.prompt = np.zeros(0, dtype=np.int64)  # tokens
        self.limit = np.zeros(0, dtype=np.int64)  # most output tokens it may get
        self.kind = np.zeros(0, dtype=np.int64)  # request type
        self.goal = np.zeros(0, dtype=np.int64)  # tokens to prefill
        self.cached = np.zeros(0, dtype=np.int64)  # tokens computed, those in flight included
        self.generated = np.zeros(0, dtype=np.int64)  # output tokens, those in flight included
        self.held = np.zeros(0, dtype=np.int64)  # KV blocks, those of the whole prompt once admitted
        self.flying = np.zeros(0, dtype=np.int64)  # batches in flight that hold it
        self.alive = np.zeros(0, dtype=bool)
        self._grow(room)

    def _grow(self, more: int) -> None:
        have = len(self.arrival)
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                setattr(self, name, np.concatenate([column, np.zeros(more, dtype=column.dtype)]))
        self.request.extend([None] * more)
        self._free.extend(range(have, have + more))

    def add(self, request, now: float, longest: int) -> int:
        """Slot of a request that arrives at ``now`` (s); the same one if it is known. ``longest``: prompt + output."""
        slot = self.slot_of.get(request.request_id)
        if slot is not None:
            return slot
        if len(self._free) <= SPARE:
            self._grow(max(len(self.arrival), 2 * SPARE))
        slot = self._free.popleft()
        self.slot_of[request.request_id] = slot
        self.arrival[slot] = now
        self.service[slot] = self.held_for[slot] = 0.0
        self.prompt[slot] = self.goal[slot] = request.num_prompt_tokens
        self.limit[slot] = min(request.max_tokens, longest - request.num_prompt_tokens)
        self.kind[slot] = self.cached[slot] = self.generated[slot] = self.held[slot] = self.flying[slot] = 0
        self.alive[slot] = True
        self.request[slot] = request
        return slot

    def remove(self, request_id: str):
        """Free the slot of a request and return the request; None if it is not known."""
        slot = self.slot_of.pop(request_id, None)
        if slot is None:
            return None
        request, self.request[slot] = self.request[slot], None
        self.alive[slot] = False
        self._free.append(slot)
        return request

    def evicted(self, slot: int) -> None:
        """The engine dropped the request's KV cache: all that it has goes through prefill again."""
        request = self.request[slot]
        self.goal[slot] = request.num_tokens
        self.generated[slot] = request.num_output_tokens
        self.cached[slot] = self.held[slot] = 0

    def admitted(self, slot: int, now: float, block_size: int) -> None:
        """It entered service at ``now``; up to then it was held, but for earlier service before an eviction."""
        self.held_for[slot] = now - self.arrival[slot] - self.service[slot]
        self.goal[slot] = self.request[slot].num_tokens
        self.refresh(slot, block_size)

    def refresh(self, slot: int, block_size: int) -> None:
        """Read a running request's progress from the engine."""
        request = self.request[slot]
        self.cached[slot] = request.num_computed_tokens
        self.generated[slot] = request.num_output_tokens + request.num_output_placeholders
        if request.is_prefill_chunk:
            self.goal[slot] = request.num_tokens
        else:
            self.goal[slot] = min(self.goal[slot], request.num_computed_tokens)
        self.held[slot] = -(-max(self.goal[slot], self.cached[slot]) // block_size)

    def look(self, slots: np.ndarray, now: float, block_size: int, residents: np.ndarray) -> tuple[int, int, int]:
        """Write those of the running ``slots`` that still have tokens to compute into ``residents``, in order.

        The others only wait for their last token to land. Returns how many, how many of them are in prefill, and the
        KV blocks that those prefills will still take.
        """
        return _look(
            slots,
            now,
            block_size,
            self.arrival,
            self.held_for,
            self.service,
            self.generated,
            self.limit,
            self.goal,
            self.cached,
            self.held,
            residents,
        )

    def fly(self, slots: np.ndarray, by: int) -> None:
        """Batches in flight that hold these requests: ``by`` more."""
        _add(self.flying, slots, by)

    def still_here(self, slots: np.ndarray) -> np.ndarray:
        """Those of the slots whose requests have not ended, in order."""
        return _where(slots, self.alive, True)

    def not_flying(self, slots: np.ndarray) -> np.ndarray:
        """Those of the slots that no batch in flight holds, in order."""
        return _where(slots, self.flying, 0)

    def hold(self, slots: np.ndarray, seconds: float) -> None:
        """These requests were held for so long."""
        _add(self.held_for, slots, seconds)

    def in_order(self, residents: np.ndarray, tokens: np.ndarray, others: bool) -> np.ndarray:
        """The residents that get ``tokens``, decodes before prefills; behind them the others, if asked for."""
        return _in_order(residents, tokens, others, self.goal, self.cached)

    def finish_prefills(self, residents: np.ndarray, tokens: np.ndarray) -> None:
        """Give every resident in prefill all that it misses."""
        _finish_prefills(residents, tokens, self.goal, self.cached)

    def any_beyond(self, residents: np.ndarray, last: np.ndarray) -> bool:
        """True when a resident has generated more than ``last`` of its type."""
        return _any_beyond(residents, self.generated, self.kind, last)

    def blocks_needed(self, residents: np.ndarray, tokens: np.ndarray, block_size: int) -> int:
        """KV blocks that the planned ``tokens`` of the residents take."""
        return _blocks_needed(residents, tokens, self.cached, block_size)

    def advance(self, residents: np.ndarray, tokens: np.ndarray, block_size: int, prefills: np.ndarray):
        """A batch with these ``tokens`` took off: decodes are one token further.

        Prefills are only listed in ``prefills``: how far they got is the engine's to say. Returns (KV tokens of the
        decodes, number of prefills).
        """
        return _advance(
            residents, tokens, block_size, self.goal, self.cached, self.generated, self.held, self.flying, prefills
        )


@njit(cache=True)
def tally(tokens):
    """(tokens in all, how many residents get any) of a plan."""
    total, served = 0, 0
    for k in range(len(tokens)):
        total += tokens[k]
        served += tokens[k] > 0
    return total, served


@njit(cache=True)
def _look(slots, now, block_size, arrival, held_for, service, generated, limit, goal, cached, held, residents):
    n, prefills, promised = 0, 0, 0
    for k in range(len(slots)):
        r = slots[k]
        if generated[r] >= limit[r]:
            continue
        residents[n] = r
        n += 1
        service[r] = now - arrival[r] - held_for[r]
        if cached[r] < goal[r]:
            prefills += 1
            promised += held[r] - (cached[r] + block_size - 1) // block_size
    return n, prefills, promised


@njit(cache=True)
def _blocks_needed(residents, tokens, cached, block_size):
    blocks = 0
    for k in range(len(residents)):
        c = cached[residents[k]]
        blocks += (c + tokens[k] + block_size - 1) // block_size - (c + block_size - 1) // block_size
    return blocks


@njit(cache=True)
def _advance(residents, tokens, block_size, goal, cached, generated, held, flying, prefills):
    kv_tokens, n = 0, 0
    for k in range(len(residents)):
        if tokens[k] == 0:
            continue
        r = residents[k]
        flying[r] += 1
        if cached[r] < goal[r]:
            prefills[n] = r
            n += 1
        else:
            cached[r] += 1
            generated[r] += 1
            held[r] = (cached[r] + block_size - 1) // block_size
            kv_tokens += cached[r]
    return kv_tokens, n


@njit(cache=True)
def _add(column, slots, by):
    for k in range(len(slots)):
        column[slots[k]] += by


@njit(cache=True)
def _where(slots, column, value):
    chosen, n = np.empty_like(slots), 0
    for k in range(len(slots)):
        if column[slots[k]] == value:
            chosen[n] = slots[k]
            n += 1
    return chosen[:n]


@njit(cache=True)
def _in_order(residents, tokens, others, goal, cached):
    order, n = np.empty_like(residents), 0
    for prefills in (False, True):
        for k in range(len(residents)):
            r = residents[k]
            if tokens[k] > 0 and (cached[r] < goal[r]) == prefills:
                order[n] = r
                n += 1
    if others:
        for k in range(len(residents)):
            if tokens[k] == 0:
                order[n] = residents[k]
                n += 1
    return order[:n]


@njit(cache=True)
def _finish_prefills(residents, tokens, goal, cached):
    for k in range(len(residents)):
        missing = goal[residents[k]] - cached[residents[k]]
        if missing > 0:
            tokens[k] = missing


@njit(cache=True)
def _any_beyond(residents, generated, kind, last):
    for k in range(len(residents)):  # noqa: SIM110, Numba has no generators here
        if generated[residents[k]] > last[kind[residents[k]]]:
            return True
    return False
