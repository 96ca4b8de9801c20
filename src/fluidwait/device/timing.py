"""Iteration-time models: how long one batch takes, in seconds, from sums over the batch.

One formula serves every model. The linear model of the paper, ``d0 + d1 * KV``, is a profile whose staircase is zero; a
measured profile is one whose ``per_kv`` is zero. No branch on the kind of model, so both run the same compiled code.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numba import njit

from fluidwait.base.errors import FluidwaitError


class TimeModel(NamedTuple):
    """Coefficients of the iteration time. Times in seconds; every coefficient is at least 0.

    base             s per iteration (the paper's d0)
    per_kv           s per KV token of the batch (the paper's d1)
    compute          f8[n >= 1], compute[q] = s to run everything but attention on q tokens; compute[0] = 0
    compute_slope    s per token beyond the end of ``compute``
    prefill_request  s per prefill chunk
    prefill_token    s per token of a prefill chunk
    prefill_square   s per (token of a chunk)^2
    prefill_context  s per (token of a chunk x token already cached)
    decode_launch    s if the batch decodes at all
    decode_request   s per decode
    decode_context   s per KV token the decodes read
    prefill_launch   s if the batch prefills at all

    Tables of attention by the number of decodes, in place of the coefficients from prefill_request on; empty without:

    alone            f8[n, k], row d, column j: s of the attention of d decodes without a prefill beside them (the last
                     row for more) that read ``alone_lengths[j]`` KV tokens each; straight lines in between
    alone_lengths    f8[k], KV tokens, increasing
    alone_uneven     f8[n], row d: s per KV token by which the longest of d decodes exceeds their mean
    beside           f8[n, 6], row d: batches that prefill, with d decodes beside: s, s per token of a chunk, per (token
                     of a chunk)^2, per (token of a chunk x token already cached), per KV token of the longest
                     request, per KV token that the decodes read

    sequences        f8[n >= 1], s of the output head and the sampler by requests in the batch (the last for more)
    """

    base: float
    per_kv: float
    compute: np.ndarray
    compute_slope: float
    prefill_request: float
    prefill_token: float
    prefill_square: float
    prefill_context: float
    decode_launch: float
    decode_request: float
    decode_context: float
    prefill_launch: float = 0.0
    alone: np.ndarray = np.zeros((0, 0))
    alone_lengths: np.ndarray = np.zeros(0)
    alone_uneven: np.ndarray = np.zeros(0)
    beside: np.ndarray = np.zeros((0, 6))
    sequences: np.ndarray = np.zeros(1)


def kept_on_disk(function, **options):
    """Compile with Numba and keep the machine code on disk.

    Raises:
        FluidwaitError: Numba finds no folder that it can write to.
    """
    try:
        return njit(function, cache=True, **options)
    except (RuntimeError, OSError):
        folder = os.environ.get("NUMBA_CACHE_DIR")
        raise FluidwaitError(
            f"NUMBA_CACHE_DIR={folder}: Numba cannot keep its machine code there; name a folder that can be written"
            if folder
            else "neither the checkout nor the home folder can be written, so Numba cannot keep its machine code; "
            "set NUMBA_CACHE_DIR to a folder that can be written"
        ) from None


class BatchSums(NamedTuple):
    """Sums over a batch and one maximum, whole numbers, so that its order cannot matter: all its time depends on."""

    tokens: int = 0  # computed, prefill and decode
    kv_tokens: int = 0  # cached + computed over the batch: the paper's sum of l_i + s_i
    prefills: int = 0  # prefill chunks
    prefill_tokens: int = 0  # chunk lengths
    prefill_squares: int = 0  # chunk length^2
    prefill_context: int = 0  # chunk length x tokens already cached
    decodes: int = 0
    decode_context: int = 0  # KV tokens read by decodes (cached + 1 each)
    longest: int = 0  # KV tokens, cached + computed, of the longest request


SUMS = BatchSums._fields[:-1]
"""Those that are sums; recordings of iterations hold them."""


@kept_on_disk
def attention_time(tm, sums):
    """Seconds of attention by the tables of :class:`TimeModel`."""
    d = min(int(sums.decodes), len(tm.beside) - 1)
    if sums.prefills > 0:
        row = tm.beside[d]
        return (
            row[0]
            + row[1] * sums.prefill_tokens
            + row[2] * sums.prefill_squares
            + row[3] * sums.prefill_context
            + row[4] * sums.longest
            + row[5] * sums.decode_context
        )
    if sums.decodes == 0:
        return 0.0
    lengths, seconds = tm.alone_lengths, tm.alone[d]
    mean = sums.decode_context / sums.decodes
    j = min(max(np.searchsorted(lengths, mean), 1), len(lengths) - 1)
    part = (mean - lengths[j - 1]) / (lengths[j] - lengths[j - 1])
    even = max(seconds[j - 1] + part * (seconds[j] - seconds[j - 1]), 0.0)
    return even + tm.alone_uneven[d] * max(sums.longest - mean, 0.0)


@kept_on_disk
def iteration_time(tm, sums):
    """Seconds that one iteration takes: a :class:`TimeModel`, and the :class:`BatchSums` of its batch."""
    tokens = sums.tokens
    last = tm.compute.shape[0] - 1
    compute = tm.compute[tokens] if tokens <= last else tm.compute[last] + tm.compute_slope * (tokens - last)
    begin = tm.prefill_launch if sums.prefills > 0 else 0.0
    prefill = (
        begin
        + tm.prefill_request * sums.prefills
        + tm.prefill_token * sums.prefill_tokens
        + tm.prefill_square * sums.prefill_squares
        + tm.prefill_context * sums.prefill_context
    )
    launch = tm.decode_launch if sums.decodes > 0 else 0.0
    decode = launch + tm.decode_request * sums.decodes + tm.decode_context * sums.decode_context
    attention = attention_time(tm, sums) if len(tm.beside) > 0 else 0.0
    sequences = tm.sequences[min(int(sums.prefills + sums.decodes), len(tm.sequences) - 1)]
    return tm.base + tm.per_kv * sums.kv_tokens + compute + prefill + decode + attention + sequences


def in_python(function):
    """The same function uncompiled: for a few calls that is faster than to load the machine code (0.7 s)."""
    return getattr(function, "py_func", function)


def scaled(tm: TimeModel, factor: float) -> TimeModel:
    """The model of a device on which everything takes ``factor`` times as long."""
    longer = TimeModel._make(factor * part for part in tm)
    return longer._replace(alone_lengths=tm.alone_lengths)


def linear(d0: float, d1: float) -> TimeModel:
    """The paper's tau(B) = d0 + d1 * KV (its section on the model): d0 in s per iteration, d1 in s per KV token."""
    return TimeModel(float(d0), float(d1), np.zeros(1), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
