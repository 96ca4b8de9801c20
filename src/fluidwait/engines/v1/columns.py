"""What a policy may know about requests that vLLM's rules schedule: the columns of its View, and how a step moves them.

All columns are rows of two arrays, which compiled code reads and writes: a call costs by the array it is handed, and
NumPy's ``column[slots]`` would let go of Python's lock, so that the threads of the engine that then send its last
tokens keep the next batch waiting. The plug-in has a slot for every request of its engine; the simulator's slots are
the requests' indices.
"""

from __future__ import annotations

from numba import njit

# rows of the counts, int64
LIMIT = 0  # most output tokens it may get
KIND = 1  # request type
GOAL = 2  # tokens to prefill
CACHED = 3  # tokens computed, those in flight included
GENERATED = 4  # output tokens, those in flight included
STAGE = 5  # generated, no further than the last stage that the policy knows
HELD = 6  # KV blocks, those of the whole prompt once admitted
FLYING = 7  # batches in flight that hold it
ALIVE = 8  # 1 until its end
PRIORITY = 9  # the engine's, the least first
ROWS = 10

# rows of the times, float64, s
ARRIVAL = 0  # on the monotonic clock
SERVICE = 1  # not held outside batches
HELD_FOR = 2  # held outside batches while resident or before
SENT = 3  # on the front end's clock, by which the engine ranks requests of one priority
TIMES = 4


@njit(cache=True)
def add(columns, row, slots, by):
    """Add ``by`` to the columns of these slots."""
    for k in range(len(slots)):
        columns[row, slots[k]] += by


@njit(cache=True)
def read(counts, progress, block_size):
    """Write ``progress``, rows as of :meth:`fluidwait.engines.vllm.requests.RequestTable.progress`."""
    for k in range(len(progress)):
        _write(counts, progress[k], block_size)


@njit(cache=True)
def enter(counts, times, now, progress):
    """Those of ``progress``, as of :func:`read`, entered service at ``now`` (s)."""
    for k in range(len(progress)):
        _enter(counts, times, now, progress[k])


@njit(cache=True)
def advance(counts, times, now, block_size, residents, tokens, progress, prefilled, flying, paused, running):
    """A batch with ``tokens`` per resident took off at ``now`` (s) and did what was planned.

    Decodes are one token further. How far prefills got is the engine's to say: ``progress``, as of
    :func:`read`, has ``prefilled`` residents, then those who entered service with this batch, and up
    to then were held, but for earlier service before an eviction. Writes the slots in the batch into ``flying``, those
    of them that entered into ``running``, and those that are held from now on, because no batch in flight computes for
    them, into ``paused``.

    Returns (KV tokens of the batch, number in ``paused``).
    """
    kv_tokens, n, held = 0, 0, 0
    for k in range(len(residents)):
        r = residents[k]
        if tokens[k] == 0:
            if counts[FLYING, r] == 0:
                paused[held] = r
                held += 1
            continue
        counts[FLYING, r] += 1
        flying[n] = r
        n += 1
        if counts[CACHED, r] >= counts[GOAL, r]:
            counts[HELD, r] += int(counts[CACHED, r] >= counts[HELD, r] * block_size)
            counts[CACHED, r] += 1
            counts[GENERATED, r] += 1
            kv_tokens += counts[CACHED, r]
    for k in range(prefilled):
        kv_tokens += _write(counts, progress[k], block_size)
    for k in range(prefilled, len(progress)):
        r = progress[k, 0]
        _enter(counts, times, now, progress[k])
        kv_tokens += _write(counts, progress[k], block_size)
        counts[FLYING, r] += 1
        flying[n] = running[k - prefilled] = r
        n += 1
    return kv_tokens, held


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
    return computed
