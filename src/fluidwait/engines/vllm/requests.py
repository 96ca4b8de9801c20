"""What the policies may know about the engine's requests, as arrays by slot: the columns of a policy's View.

Every request of the engine has a slot from its arrival until after its end. Slots are taken again oldest first, so one
that is still referred to by an iteration in flight is not handed out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

SPARE = 64  # slots always left free


class RequestTable:
    """Columns by slot (int64 unless said otherwise); ``slot_of`` by request id."""

    def __init__(self, room: int = 1024):
        self.slot_of: dict[str, int] = {}
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
        return slot

    def remove(self, request_ids: Iterable[str]) -> list[int]:
        """Free the slots of these requests; returns them. Their columns stay readable until the next :meth:`add`."""
        slots = [slot for slot in (self.slot_of.pop(name, None) for name in request_ids) if slot is not None]
        self.alive[slots] = False
        self._free.extend(slots)
        return slots

    def evicted(self, slot: int, request) -> None:
        """The engine dropped the request's KV cache: all that it has goes through prefill again."""
        self.goal[slot] = request.num_tokens
        self.generated[slot] = request.num_output_tokens
        self.cached[slot] = self.held[slot] = 0

    def admitted(self, slot: int, request, now: float, block_size: int) -> None:
        """It entered service at ``now``; up to then it was held, but for earlier service before an eviction."""
        self.held_for[slot] = now - self.arrival[slot] - self.service[slot]
        self.goal[slot] = request.num_tokens
        self.refresh(slot, request, block_size)

    def refresh(self, slot: int, request, block_size: int) -> None:
        """Read a running request's progress from the engine."""
        self.cached[slot] = request.num_computed_tokens
        self.generated[slot] = request.num_output_tokens + request.num_output_placeholders
        if request.is_prefill_chunk:
            self.goal[slot] = request.num_tokens
        else:
            self.goal[slot] = min(self.goal[slot], request.num_computed_tokens)
        self.held[slot] = -(-max(self.goal[slot], self.cached[slot]) // block_size)
