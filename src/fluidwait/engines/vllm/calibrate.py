"""Measure how long the iterations of a running engine take.

The table is for :func:`fluidwait.device.iteration_times.calibrate_iterations`.

Three kinds of load. *Bursts*: equal requests that start together, over a grid of batch sizes and prompt lengths; long
prompts are cut into chunks by the engine's token budget, so one burst has iterations of prefills, of chunks beside
decodes, and of decodes with growing caches. *Mixed*: requests of a length law from a number of clients that each wait
for their answer. *Sweeps*: the same under one token budget after the other, so that chunks of every size stand beside
decodes. Iterations of the same composition count once, with their median time: a shared machine adds time to some
iterations, never takes any away. Under asynchronous scheduling, which blurs where one iteration ends and the next
begins, :func:`grouped` keeps them all, a few consecutive ones at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import Strict
from fluidwait.device.iteration_times import SUMS
from fluidwait.engines.vllm.load.engine import Engine
from fluidwait.engines.vllm.load.generator import LoadError, offer, token_ids
from fluidwait.workload import Requests

COLUMNS = ("begin", "seconds", "planning", *SUMS, "resident_kv")
"""Of the engine's log: when an iteration began (s), how long it took, the scheduler's share of that (s); sums over the
batch, as in ``iteration_time``; KV tokens of all residents."""

TOGETHER = 8
"""Iterations of a group at most."""

CONTIGUOUS = 1e-6
"""s between two iterations at most, for them to follow each other without a pause."""

Sizes = Annotated[list[PositiveInt], Field(min_length=1)]


class Bursts(Strict):
    """Equal requests that start together, in every combination of ``batch`` and ``prompt``."""

    batch: Sizes = Field(description="requests that start together")
    prompt: Sizes = Field(description="tokens of each prompt")
    output: PositiveInt = Field(description="tokens that each request generates")
    repeats: PositiveInt = Field(3, description="times that everything is measured")


class Sweep(Strict):
    """Clients that each wait for their answer, under one token budget after the other."""

    workload: str = Field(description="file in config/workloads, by name")
    in_flight: PositiveInt = Field(description="number of clients")
    token_budgets: Sizes = Field(description="tokens in a batch at most, in turn; none above the engine's own")
    seconds: Annotated[float, Field(gt=0)] = Field(2.0, description="time at each budget after which none is sent")


class Generation(Strict):
    """The paper's check: whole generations of a batch, times against memory, and one batch size extrapolated."""

    prompt: PositiveInt
    output: PositiveInt
    batch: Sizes = Field(description="batch sizes that the linear model is fitted to")
    extrapolated: Sizes = Field(description="batch sizes that it predicts unseen")
    repeats: PositiveInt = 3


class Timed(NamedTuple):
    """One measured generation."""

    seconds: float  # from the start of its first iteration to the end of its last
    rows: np.ndarray  # float64[iterations, len(COLUMNS)]


async def burst(engine: Engine, batch: int, prompt: int, output: int, vocabulary: int) -> Timed:
    """``batch`` equal requests on an idle engine, admitted together."""
    lengths = np.full(batch, prompt), np.full(batch, output)
    requests = Requests(np.zeros(batch), *lengths, np.zeros(batch, dtype=np.int64))
    await engine.log()
    await engine.hold(True)
    answers = asyncio.create_task(offer(requests, engine.send, vocabulary=vocabulary, seed=batch))
    try:
        await _until_sent(engine, batch)
    finally:
        await engine.hold(False)
    await answers
    rows = (await engine.log()).rows
    return Timed(float(rows[:, 1].sum()), rows)


async def measure_bursts(engine: Engine, bursts: Bursts, vocabulary: int, room: int) -> np.ndarray:
    """Iterations of all bursts, float64[n, len(COLUMNS)]; the largest batches come once more at first, to warm up.

    Bursts that do not fit ``room`` KV tokens at once are left out: preemptions would blur what a batch holds.
    """
    grid = [(b, p) for b in bursts.batch for p in bursts.prompt if b * (p + bursts.output) <= room]
    for prompt in bursts.prompt:
        await burst(engine, max(b for b, p in grid if p == prompt), prompt, bursts.output, vocabulary)
    found = []
    for _ in range(bursts.repeats):
        for batch, prompt in grid:
            found.append((await burst(engine, batch, prompt, bursts.output, vocabulary)).rows)
    return np.concatenate(found)


async def measure_mixed(engine: Engine, requests: Requests, in_flight: int, vocabulary: int) -> np.ndarray:
    """Iterations while ``in_flight`` clients send the requests one after another, float64[n, len(COLUMNS)].

    Raises:
        LoadError: a request came back short.
    """
    return await _serve(engine, requests, in_flight, vocabulary, seconds=np.inf)


async def measure_sweep(engine: Engine, requests: Requests, sweep: Sweep, vocabulary: int) -> np.ndarray:
    """Iterations under each token budget of the sweep, float64[n, len(COLUMNS)].

    Each budget begins with the first of ``requests`` and sends none after ``sweep.seconds``.

    Raises:
        LoadError: a request came back short.
    """
    found = []
    try:
        for budget in sweep.token_budgets:
            await engine.limit(budget)
            found.append(await _serve(engine, requests, sweep.in_flight, vocabulary, sweep.seconds))
    finally:
        await engine.limit(0)
    return np.concatenate(found)


async def _serve(engine: Engine, requests: Requests, in_flight: int, vocabulary: int, seconds: float) -> np.ndarray:
    """Iterations while clients send the requests one after another, for some seconds or until there are none left."""
    prompts = token_ids(requests.prompt, vocabulary, seed=1)
    waiting = iter(range(len(prompts)))
    await engine.log()
    end = time.monotonic() + seconds

    async def client() -> None:
        for i in waiting:
            if time.monotonic() > end:
                return
            wanted = int(requests.output[i])
            received = sum([count async for count in engine.send(i, prompts[i], wanted)])
            if received != wanted:
                raise LoadError(f"request {i}: asked for {wanted} tokens, got {received}")

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return (await engine.log()).rows


async def measure_generations(engine: Engine, generation: Generation, vocabulary: int) -> pl.DataFrame:
    """One row per generation: batch, repeat, extrapolated, begin (s, monotonic clock), seconds, iterations, kv_work (KV
    tokens x iterations)."""
    sizes = [*generation.batch, *generation.extrapolated]
    await burst(engine, max(sizes), generation.prompt, generation.output, vocabulary)
    rows = []
    for repeat in range(generation.repeats):
        for batch in sizes:
            timed = await burst(engine, batch, generation.prompt, generation.output, vocabulary)
            sums = dict(zip(COLUMNS, timed.rows.T, strict=True))
            rows.append(
                {
                    "batch": batch,
                    "repeat": repeat,
                    "extrapolated": batch in generation.extrapolated,
                    "begin": timed.rows[0, 0],
                    "seconds": timed.seconds,
                    "iterations": len(timed.rows),
                    "kv_work": float(sums["kv_tokens"].sum()),
                }
            )
    return pl.DataFrame(rows)


def medians(rows: np.ndarray) -> pl.DataFrame:
    """Columns ``SUMS``, ``seconds`` (median) and ``count``, one row per composition.

    Raises:
        ConfigError: no iterations were measured.
    """
    if len(rows) == 0:
        raise ConfigError("calibration: no iterations were measured")
    table = pl.DataFrame(dict(zip(COLUMNS, rows.T, strict=True))).with_columns(pl.col(SUMS).cast(pl.Int64))
    grouped = table.group_by(SUMS, maintain_order=True).agg(pl.col("seconds").median(), count=pl.len())
    return grouped.sort(SUMS)


def grouped(parts: list[np.ndarray]) -> pl.DataFrame:
    """Columns :data:`fluidwait.device.iteration_times.SUMS`, ``seconds`` and ``group``, one row per iteration.

    With asynchronous scheduling the engine prepares a batch before it takes in the results of the one before, so the
    time of that preparation counts for the wrong one of two neighbours. It stays within a group: some
    :data:`TOGETHER` iterations that followed each other without a pause.

    Args:
        parts: iterations as of the engine's log, float64[n, len(COLUMNS)] each.

    Raises:
        ConfigError: no iterations were measured.
    """
    tables, groups = [], 0
    for rows in filter(len, parts):
        begin, end = rows[:, 0], rows[:, 0] + rows[:, 1]
        pauses = np.flatnonzero(np.abs(begin[1:] - end[:-1]) > CONTIGUOUS) + 1
        for run in np.split(np.arange(len(rows)), pauses):
            for together in np.array_split(run, -(-len(run) // TOGETHER)):
                table = pl.DataFrame(dict(zip(COLUMNS, rows[together].T, strict=True)))
                tables.append(table.select(pl.col(SUMS).cast(pl.Int64), "seconds", group=pl.lit(groups)))
                groups += 1
    if not tables:
        raise ConfigError("calibration: no iterations were measured")
    return pl.concat(tables)


async def _until_sent(engine: Engine, count: int) -> None:
    """Wait until the engine has ``count`` requests in its queue."""
    while await engine.waiting() < count:
        await asyncio.sleep(0.002)
