"""What the traffic says: arrival rate, length distribution and iteration time, over windows of the recent past."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from scipy.optimize import nnls

from fluidwait.device.tiles import beginning_of_tile, end_of_tile
from fluidwait.device.timing import TimeModel
from fluidwait.workload import LengthLaw

OUTLIER = 5.0
"""Iterations that took longer than this many medians of batches of like size are left out of the fit: compilation, a
swapped-out process. A median over all sizes would take the prefills for outliers."""

ALIKE = 5
"""Iterations of like size from which on they count: of fewer one cannot tell which are outliers."""

LEAST = 1e-6
"""s: no iteration takes less, whatever the fit says."""


NOBODY = np.zeros((0, 2), dtype=np.int64)


class Traffic:
    """Windows over arrivals (the last ``rate_window`` s), finished requests and iterations (the last so many).

    Iterations have a window per size of batch, by tiles of tokens: a scheduler that limits its batches would otherwise
    forget what larger ones take, and a line through those left drifts away.

    The engine writes, a background thread reads; a lock guards both, held for a copy at most.
    """

    def __init__(self, rate_window: float, length_window: int, iteration_window: int):
        self.rate_window = rate_window
        self._arrivals: deque[float] = deque(maxlen=100_000)
        self._lengths: deque[tuple[int, int]] = deque(maxlen=length_window)
        self._iteration_window = iteration_window
        self._iterations: dict[int, _Window] = {}  # by the end of the tile of their tokens
        self._lock = threading.Lock()
        self.started: float | None = None

    def arrived(self, now: float) -> None:
        with self._lock:
            self.started = now if self.started is None else self.started
            self._arrivals.append(now)

    def finished(self, prompt: int, output: int) -> None:
        with self._lock:
            self._lengths.append((prompt, output))

    def iterated(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        """An iteration computed ``tokens``; its requests then held ``kv_tokens`` in all."""
        tile = end_of_tile(tokens)
        with self._lock:
            if tile not in self._iterations:
                self._iterations[tile] = _Window(self._iteration_window)
            self._iterations[tile].add(tokens, kv_tokens, seconds)

    def counts(self) -> tuple[int, int]:
        """Finished requests and iterations in the windows."""
        with self._lock:
            return len(self._lengths), sum(len(window.rows) for window in self._iterations.values())

    def rate(self, now: float) -> float:
        """Requests/s over the window, or since the first arrival when that is less long ago."""
        with self._lock:
            while self._arrivals and self._arrivals[0] < now - self.rate_window:
                self._arrivals.popleft()
            if self.started is None:
                return 0.0
            return len(self._arrivals) / max(min(self.rate_window, now - self.started), 1.0)

    def law(self, running: np.ndarray = NOBODY) -> LengthLaw:
        """The lengths of the finished requests in the window.

        The first to finish have short outputs. Until the window is full, the requests that still run therefore count
        too, as what is known of them: their outputs are longer than what they have generated. Each gives its weight to
        the longer ones among the others (Kaplan and Meier's estimate); without longer ones it counts as it is.

        Args:
            running: int64[N, 2], prompt tokens and generated tokens of the running requests.
        """
        with self._lock:
            pairs = np.array(self._lengths, dtype=np.float64).reshape(-1, 2)
            is_full = len(self._lengths) == self._lengths.maxlen
        weight = np.ones(len(pairs))
        if not is_full and len(running):
            pairs, weight = _with_running(pairs, np.asarray(running, dtype=np.float64))
        kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
        share = np.bincount(kind.reshape(-1), weights=weight, minlength=len(kinds))
        return LengthLaw(kinds[:, 0], kinds[:, 1], share / share.sum())

    def times(self) -> tuple[TimeModel, tuple[float, float]]:
        """Iteration times, fitted to the windows: a time model, and the paper's (d0 s, d1 s/KV token).

        The model is base + compute[tokens] + per_kv x KV tokens. By least squares, in which every size of batch counts
        the same by its relative error, ``compute`` rises from 0 as the stairs of :func:`_stairs`, of the tiles of which
        enough iterations were seen, and beyond the last of them as it does up to there on average.
        """
        rows, weight = self._rows()
        d0, d1 = _fit(np.column_stack([np.ones(len(rows)), rows[:, 1]]), rows[:, 2], np.ones(len(rows)))
        return _time_model(rows, weight), (max(d0, LEAST), d1)

    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Iterations but for outliers, f8[n, 3] (tokens, KV tokens, s), and their weights, f8[n]."""
        with self._lock:
            alike = [window.rows.copy() for window in self._iterations.values()]
        alike = [rows for rows in alike if len(rows) >= ALIKE] or alike
        middle = [np.median(rows[:, 2]) for rows in alike]
        alike = [rows[rows[:, 2] <= OUTLIER * most] for rows, most in zip(alike, middle, strict=True)]
        weight = [np.full(len(rows), 1 / (len(rows) ** 0.5 * most)) for rows, most in zip(alike, middle, strict=True)]
        return np.concatenate(alike), np.concatenate(weight)


class _Window:
    """The last ``size`` iterations of one tile, in no order."""

    def __init__(self, size: int):
        self._rows = np.empty((size, 3))  # tokens, KV tokens, s
        self._count = 0  # ever

    @property
    def rows(self) -> np.ndarray:
        return self._rows[: self._count]

    def add(self, tokens: int, kv_tokens: int, seconds: float) -> None:
        self._rows[self._count % len(self._rows)] = tokens, kv_tokens, seconds
        self._count += 1


def _with_running(finished: np.ndarray, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs f8[M, 2] of prompt and output tokens, and their weights f8[M]; see :meth:`Traffic.law`."""
    pairs = np.concatenate([finished, running])
    is_over = np.arange(len(pairs)) < len(finished)
    order = np.lexsort((~is_over, pairs[:, 1]))  # of equal ones the finished first: the others go on
    factor, weight, behind = 1.0, np.zeros(len(pairs)), len(pairs)
    for i in order.tolist():
        behind -= 1
        weight[i] = factor
        if not is_over[i] and behind:  # all behind it have the same weight so far
            weight[i] = 0.0
            factor *= (behind + 1) / behind
    return pairs[weight > 0], weight[weight > 0]


def _time_model(rows: np.ndarray, weight: np.ndarray) -> TimeModel:
    sizes, size = np.unique(rows[:, 0], return_inverse=True)
    ends, tile = np.unique([end_of_tile(tokens) for tokens in sizes], return_inverse=True)
    seen = np.bincount(tile[size])
    ends = ends[seen >= min(ALIKE, seen.max())]
    most = int(ends[-1])
    columns = np.column_stack([np.ones(len(rows)), _stairs(rows[:, 0], ends), rows[:, 1]])
    base, *heights, per_kv = _fit(columns, rows[:, 2], weight)
    compute = _stairs(np.arange(most + 1.0), ends) @ np.array(heights)
    return TimeModel(max(base, LEAST), per_kv, compute, compute[-1] / most, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _stairs(tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Functions of the tokens f8[N] that rise from 0 to 1, f8[N, 2K - 1], for the tiles with these ends i8[K].

    Through each of the tiles a straight line, and to the next a step, or a line where tiles between them are missing.
    """
    starts = np.array([beginning_of_tile(int(end)) for end in ends])
    inside = [(tokens - first) / (last - first) for first, last in zip(starts, ends, strict=True)]
    between = [(tokens - last) / (first - last) for last, first in zip(ends[:-1], starts[1:], strict=True)]
    return np.clip(np.column_stack([*inside, *between]), 0.0, 1.0)


def _fit(columns: np.ndarray, seconds: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 of the columns, least squares."""
    columns = columns * weight[:, None]
    size = columns.max(axis=0)  # one scale for all columns
    size[size == 0] = 1.0
    return nnls(columns / size, seconds * weight)[0] / size
