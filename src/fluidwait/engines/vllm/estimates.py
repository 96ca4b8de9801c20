"""What the traffic says: arrival rate, length distribution and iteration time, over windows of the recent past."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
from scipy.optimize import nnls

from fluidwait.timing import TimeModel
from fluidwait.workload import LengthLaw

OUTLIER = 5.0
"""Iterations that took longer than this many medians are left out of the fit: compilation, a swapped-out process."""

LEAST = 1e-6
"""s: no iteration takes less, whatever the fit says."""


class Traffic:
    """Windows over arrivals (the last ``rate_window`` s), finished requests and iterations (the last so many).

    The engine writes, a background thread reads; a lock guards both, held for a copy at most.
    """

    def __init__(self, rate_window: float, length_window: int, iteration_window: int):
        self.rate_window = rate_window
        self._arrivals: deque[float] = deque(maxlen=100_000)
        self._lengths: deque[tuple[int, int]] = deque(maxlen=length_window)
        self._iterations: deque[tuple[int, int, float]] = deque(maxlen=iteration_window)
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
        with self._lock:
            self._iterations.append((tokens, kv_tokens, seconds))

    def counts(self) -> tuple[int, int]:
        """Finished requests and iterations in the windows."""
        return len(self._lengths), len(self._iterations)

    def rate(self, now: float) -> float:
        """Requests/s over the window, or since the first arrival when that is less long ago."""
        with self._lock:
            while self._arrivals and self._arrivals[0] < now - self.rate_window:
                self._arrivals.popleft()
            if self.started is None:
                return 0.0
            return len(self._arrivals) / max(min(self.rate_window, now - self.started), 1.0)

    def law(self) -> LengthLaw:
        """The lengths of the finished requests in the window, equally likely.

        Requests still running are not in it, so at first short outputs are over-represented; a window of many times
        the requests in service makes that small.
        """
        with self._lock:
            pairs = np.array(self._lengths, dtype=np.float64)
        kinds, counts = np.unique(pairs, axis=0, return_counts=True)
        return LengthLaw(kinds[:, 0], kinds[:, 1], counts / counts.sum())

    def time_model(self) -> TimeModel:
        """base + slope x tokens computed + per_kv x KV tokens, all at least 0: least squares over the window."""
        base, slope, per_kv = self._fit(1.0, 1.0)
        return TimeModel(base, per_kv, np.zeros(1), slope, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def linear(self) -> tuple[float, float]:
        """The paper's (d0 s, d1 s/KV token), fitted to the same iterations."""
        base, _, per_kv = self._fit(0.0, 1.0)
        return base, per_kv

    def _fit(self, with_tokens: float, with_kv: float) -> np.ndarray:
        with self._lock:
            rows = np.array(self._iterations, dtype=np.float64)
        rows = rows[rows[:, 2] <= OUTLIER * np.median(rows[:, 2])]
        columns = np.column_stack([np.ones(len(rows)), with_tokens * rows[:, 0], with_kv * rows[:, 1]])
        size = np.maximum(columns.max(axis=0), 1.0)  # one scale for all columns
        return np.maximum(nnls(columns / size, rows[:, 2])[0] / size, [LEAST, 0.0, 0.0])
