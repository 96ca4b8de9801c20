"""The blocks of vLLM's KV cache with prefix caching: which are free, in which order they are reused, what they hold.

A full block is known by a hash of all tokens up to its end. Freed blocks keep their content until they are reused, so
that a request that begins with the same tokens takes them over. Blocks without a hash are reused first, the last freed
before all others; those with one in the order in which they were freed, the tail of a request before its head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidwait.engines.v1.rules import Rules, State
from fluidwait.policies.contract import jit

NONE = -1


class Pool(NamedTuple):
    """Arrays by block unless said otherwise; blocks and hashes are numbers from 0 on."""

    before: np.ndarray  # int64[blocks + 1], the free blocks in a ring; the last entry stands for its beginning and end
    after: np.ndarray  # int64[blocks + 1]
    users: np.ndarray  # int64, requests that hold it
    hash: np.ndarray  # int64, NONE without
    twin: np.ndarray  # int64, the next block of the same hash, NONE without
    first: np.ndarray  # int64 by hash: the first block of it, NONE without
    table: np.ndarray  # int64[rows, most]: blocks of a running request, a row for each
    spare: np.ndarray  # int64[rows + 1]: rows that are free, the first so many; the last entry says how many
    row: np.ndarray  # int64 by request
    hashed: np.ndarray  # int64 by request: its blocks that have their hash, from the first on
    known: np.ndarray  # int64, hashes of the prompts' full blocks, one request after the other
    begin: np.ndarray  # int64[requests + 1]: where those of a request begin in ``known``
    own: np.ndarray  # int64 by request: where the hashes begin that are its alone, those of generated tokens


def new_pool(state: State, rules: Rules, hashes: list[list[int]] | None) -> Pool:
    """All blocks free and empty, for these requests.

    Args:
        hashes: of each request, numbers of the full blocks of its prompt; read when the rules are ``caching``, None
            where no two prompts have a beginning in common.
    """
    n = len(state.prompt)
    rows = min(n, rules.requests)
    longest = -(-(state.prompt + state.output) // rules.block_size) + 1
    per_request = [np.asarray(own, dtype=np.int64) for own in (hashes or [[]] * n)] if rules.caching else []
    _, known = np.unique(np.concatenate([*per_request, np.zeros(0, dtype=np.int64)]), return_inverse=True)
    begin = np.concatenate([[0], np.cumsum([len(own) for own in per_request])]).astype(np.int64)
    distinct = int(known.max()) + 1 if len(known) else 0
    own = (distinct + np.concatenate([[0], np.cumsum(longest[:-1])])).astype(np.int64)
    size, most = (rules.blocks, int(longest.max())) if rules.caching else (0, 0)
    ring = np.arange(size + 1, dtype=np.int64)
    return Pool(
        (ring - 1) % (size + 1),
        (ring + 1) % (size + 1),
        np.zeros(size, dtype=np.int64),
        np.full(size, NONE),
        np.full(size, NONE),
        np.full(distinct + int(longest.sum()) if rules.caching else 0, NONE),
        np.zeros((rows if rules.caching else 0, most), dtype=np.int64),
        np.concatenate([np.arange(rows), [rows]]).astype(np.int64),
        np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        known.astype(np.int64),
        begin,
        own,
    )


@jit
def hash_of(pool, r, i):
    """The hash of block ``i`` of request ``r``: its prompt's, or one of its own."""
    at = pool.begin[r] + i
    return pool.known[at] if at < pool.begin[r + 1] else pool.own[r] + i


@jit
def hits(pool, r, most):
    """Leading blocks of request ``r``, at most so many, whose content is there; and how many of those are free."""
    found, free = 0, 0
    while found < most:
        block = pool.first[hash_of(pool, r, found)]
        if block == NONE:
            break
        free += pool.users[block] == 0
        found += 1
    return found, free


@jit
def take_over(pool, r, found):
    """Give an entering request its row and the first ``found`` blocks, whose content is there."""
    last = len(pool.spare) - 1
    pool.spare[last] -= 1
    row = pool.spare[pool.spare[last]]
    pool.row[r] = row
    pool.hashed[r] = found
    for i in range(found):
        block = pool.first[hash_of(pool, r, i)]
        if pool.users[block] == 0:
            unlink(pool, block)
        pool.users[block] += 1
        pool.table[row, i] = block


@jit
def extend(pool, r, begin, end):
    """Give a running request new blocks, number ``begin`` to ``end`` of its own."""
    ring = len(pool.before) - 1
    for i in range(begin, end):
        block = pool.after[ring]
        unlink(pool, block)
        if pool.hash[block] != NONE:
            forget(pool, block)
        pool.users[block] = 1
        pool.table[pool.row[r], i] = block


@jit
def publish(pool, r, full):
    """Give the first ``full`` blocks of a running request, which will be full, their hashes."""
    for i in range(pool.hashed[r], full):
        block, name = pool.table[pool.row[r], i], hash_of(pool, r, i)
        pool.hash[block] = name
        pool.twin[block] = NONE
        other = pool.first[name]
        if other == NONE:
            pool.first[name] = block
        else:
            while pool.twin[other] != NONE:
                other = pool.twin[other]
            pool.twin[other] = block
    pool.hashed[r] = max(pool.hashed[r], full)


@jit
def release(pool, r, held):
    """Take its ``held`` blocks from a running request, and its row; returns how many blocks come free."""
    row, freed, ring = pool.row[r], 0, len(pool.before) - 1
    for i in range(held - 1, -1, -1):
        block = pool.table[row, i]
        pool.users[block] -= 1
        if pool.users[block] == 0:
            freed += 1
            if pool.hash[block] != NONE:
                link(pool, block, pool.before[ring])
    for i in range(held):
        block = pool.table[row, i]
        if pool.users[block] == 0 and pool.hash[block] == NONE:
            link(pool, block, ring)
    last = len(pool.spare) - 1
    pool.spare[pool.spare[last]] = row
    pool.spare[last] += 1
    return freed


@jit
def forget(pool, block):
    """A block that is reused loses its content."""
    name, other = pool.hash[block], pool.first[pool.hash[block]]
    if other == block:
        pool.first[name] = pool.twin[block]
    else:
        while pool.twin[other] != block:
            other = pool.twin[other]
        pool.twin[other] = pool.twin[block]
    pool.hash[block] = NONE


@jit
def unlink(pool, block):
    """Take a block out of the ring of free ones."""
    before, after = pool.before[block], pool.after[block]
    pool.after[before], pool.before[after] = after, before


@jit
def link(pool, block, before):
    """Put a block into the ring of free ones, behind ``before``."""
    after = pool.after[before]
    pool.before[block], pool.after[block] = before, after
    pool.after[before], pool.before[after] = block, block
