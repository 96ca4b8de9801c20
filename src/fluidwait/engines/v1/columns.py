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
BATCH = 7  # number of the newest batch that holds it
ALIVE = 8  # 1 until its end
PRIORITY = 9  # the engine's, the least first
MAX_OUTPUT = 10  # output tokens that the client allows
PREDICTED = 11  # output tokens as somebody predicts them, 0 where nobody does
ROWS = 12

# rows of the times, float64, s
ARRIVAL = 0  # on the monotonic clock
SERVICE = 1  # not held outside batches
HELD_FOR = 2  # held outside batches while resident or before
SENT = 3  # on the front end's clock, by which the engine ranks requests of one priority
TIMES = 4


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
def advance(counts, times, now, block_size, residents, tokens, progress, prefilled, batch, ended, paused, running):
    """Batch number ``batch`` with ``tokens`` per resident took off at ``now`` (s) and did what was planned.

    Decodes are one token further. How far prefills got is the engine's to say: ``progress``, as of
    :func:`read`, has ``prefilled`` residents, then those who entered service with this batch, and up
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
