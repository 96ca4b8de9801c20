"""The published runs of E1 again: arrivals, iteration times and schedulers as the paper's earlier code has them.

This shares nothing with our engines, on purpose. It shows which choices of the earlier code make the published
latencies, by reproducing them. All requests have :data:`PROMPT` and :data:`OUTPUT` tokens.

* **Arrivals**: exponential gaps, not truncated, from Python's ``random`` with seed 42; a draw for the request's type
  precedes every gap (:func:`arrivals`).
* **Iteration times**: a random forest looks up each operator, at batch sizes rounded up to 8 tokens, and attention from
  its kernel's measurements, as one chunk for all prefills of a batch (:class:`Predictor`).
* **WAIT**: a cap on the requests in service and two bounds on tokens. Its quota per batch and its gate have no effect
  (:func:`wait`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import read_columns

PROMPT, OUTPUT = 512, 20  # tokens of every request
SEED = 42
ROUNDING = 8  # tokens of a batch
GRANULARITY = 64  # KV tokens

Chunks = list[tuple[int, int]]  # (prefill tokens, tokens already cached)
Seconds = Callable[[Chunks, int], float]  # of a batch with these chunks and that many decodes


class Server(NamedTuple):
    """Requests by number, first come first; ``cached`` is indexed by request."""

    waiting: list[int]
    prefilling: list[int]
    decoding: list[int]
    cached: list[int]

    def left(self, request: int) -> int:
        return PROMPT - self.cached[request]


Plan = Callable[[Server], list[tuple[int, int]]]  # takes requests in; returns (request, tokens) of each prefill chunk


def arrivals(rate: float, count: int) -> np.ndarray:
    """Arrival times in s, shape (count,)."""
    stream = random.Random(SEED)
    gaps = np.empty(count)
    for i in range(count):
        stream.random()  # the type, of which there is one
        gaps[i] = stream.expovariate(rate)
    return gaps.cumsum()


def replay(arrival: np.ndarray, plan: Plan, seconds: Seconds) -> np.ndarray:
    """Latency of every request in s, shape of ``arrival``. Every decode advances in every batch."""
    count = len(arrival)
    server = Server([], [], [], [0] * count)
    generated, completion = [0] * count, np.full(count, np.nan)
    now, known, finished = 0.0, 0, 0
    while finished < count:
        while known < count and arrival[known] <= now:
            server.waiting.append(known)
            known += 1
        decodes = list(server.decoding)
        chunks = plan(server)
        if not decodes and not chunks:
            now = arrival[known]
            continue
        now += seconds([(tokens, server.cached[r]) for r, tokens in chunks], len(decodes))
        for r, tokens in chunks:
            server.cached[r] += tokens
            if server.left(r) == 0:  # the iteration that ends the prefill yields the first token
                generated[r] = 1
                server.prefilling.remove(r)
                server.decoding.append(r)
        for r in decodes:
            generated[r] += 1
            if generated[r] == OUTPUT:
                server.decoding.remove(r)
                completion[r] = now
                finished += 1
    return completion - arrival


def sarathi(budget: int = 512, cap: int = 256) -> Plan:
    """Prefill chunks fill what the decodes leave of ``budget`` tokens; at most ``cap`` requests in service."""

    def plan(server: Server) -> list[tuple[int, int]]:
        room = cap - len(server.decoding) - len(server.prefilling)
        return _fill(server, PROMPT, budget - len(server.decoding), room)

    return plan


def wait(limit: int, chunk: int = 256) -> Plan:
    """At most ``limit`` requests in service, with prefill tokens up to what a full system computes per batch.

    With K chunks per prompt, P = limit / (K + OUTPUT) requests are in each stage of a full system, so P K of them are
    in prefill: P K chunk prefill tokens and limit - P K decodes per batch.
    """
    chunks = math.ceil(PROMPT / chunk)
    in_prefill = limit * chunks / (chunks + OUTPUT)
    prefill_bound = math.ceil(in_prefill * chunk)
    bound = math.ceil(limit - in_prefill + in_prefill * chunk)

    def plan(server: Server) -> list[tuple[int, int]]:
        room = limit - len(server.decoding) - len(server.prefilling)
        return _fill(server, chunk, min(prefill_bound, bound - len(server.decoding)), room)

    return plan


def _fill(server: Server, largest: int, budget: int, room: int) -> list[tuple[int, int]]:
    """Chunks of at most ``largest`` tokens, ``budget`` in all: prefills under way, then up to ``room`` new ones.

    A prefill that found no budget comes first in the next batch, as in the earlier code.
    """
    chunks, idle = [], []
    for r in server.prefilling:
        tokens = min(server.left(r), largest, budget)
        if tokens <= 0:
            idle.append(r)
            continue
        chunks.append((r, tokens))
        budget -= tokens
    while server.waiting and room > 0 and budget > 0:
        r = server.waiting.pop(0)
        chunks.append((r, min(PROMPT, largest, budget)))
        budget -= chunks[-1][1]
        room -= 1
    server.prefilling[:] = idle + [r for r, _ in chunks]
    return chunks


class Predictor:
    """Iteration times as the earlier code predicts them, in s.

    Args:
        tokens, seconds: everything but attention by tokens of a batch; ``tokens`` increasing.
        medians: CSV file of attention kernels: chunk (0: decodes), requests, cached, median (ms per layer).
        layers: of the model.
    """

    def __init__(self, tokens: np.ndarray, seconds: np.ndarray, medians: Path, layers: int):
        self._tokens, self._compute = np.asarray(tokens), forest_mean(tokens, seconds)
        table = read_columns(medians, {"chunk": 0, "requests": 1, "cached": 0}, real=("median",))
        self._decode = _decodes(table, medians) * layers * 1e-3
        self._prefill = _prefills(table) * layers * 1e-3

    def __call__(self, chunks: Chunks, decodes: int) -> float:
        """Seconds of a batch. Decodes: the mean context of 513 to 531 tokens always rounds up to 576."""
        tokens = math.ceil((sum(q for q, _ in chunks) + decodes) / ROUNDING) * ROUNDING
        time = self._compute[np.searchsorted(self._tokens, tokens)] + self._decode[decodes]
        if chunks:
            side = round(math.sqrt(sum(q * q for q, _ in chunks)))
            cached = sum(math.ceil(k / GRANULARITY) for _, k in chunks)
            time += self._prefill[side, min(cached, self._prefill.shape[1] - 1)]
        return float(time)


def forest_mean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What a random forest of fully grown trees predicts at its own training points, in expectation over its samples.

    In one dimension such a tree gives the nearest point of its bootstrap sample (of two equally near the left one: the
    split is half-way). The k nearest of n points are all missing from a sample with probability (1 - k/n)^n.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    n = len(x)
    missing = (1 - np.arange(n + 1) / n) ** n
    chosen = missing[:-1] - missing[1:]  # probability that the k-th nearest is the nearest in the sample
    return np.array([chosen @ y[np.lexsort((x, abs(x - at)))] for at in x])


def _decodes(table: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """Median by number of decodes, 0 of them for nothing."""
    rows = table["chunk"] == 0
    requests, median = table["requests"][rows], table["median"][rows]
    if not np.array_equal(requests, np.arange(1, len(requests) + 1)):
        raise ConfigError(f"{path}: column 'requests': decodes (chunk 0) must count 1, 2, 3, ... without gaps")
    return np.concatenate(([0.0], median))


def _prefills(table: dict[str, np.ndarray]) -> np.ndarray:
    """Median by [chunk, cached / GRANULARITY], linear between measurements and constant beyond them."""
    sizes = np.unique(table["chunk"][table["chunk"] > 0])
    cached = np.arange(0, table["cached"][table["chunk"] > 0].max() + 1, GRANULARITY)
    rows = []
    for size in sizes:
        known = table["chunk"] == size
        rows.append(np.interp(cached, table["cached"][known], table["median"][known]))
    chunks = np.arange(sizes.max() + 1)
    return np.stack([np.interp(chunks, sizes, column) for column in np.array(rows).T], axis=1)
