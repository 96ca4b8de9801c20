"""How fast the machine is, moment by moment, while it measures something else.

A core that is shared with others computes as fast as they let it: on the machine of the recordings up to a third slower
for seconds or minutes, whatever runs. So a *meter* stands beside the engine: a process of its own on the core of the
engine's worker, which does the same small computation twenty times a second (4 % of the core) and notes the processor
time that it takes. It knows nothing of engine, requests and policies. Its seconds over those during the calibration are
the machine's *pace*: 1.1 means that everything takes a tenth longer.

Others slow a core down in two ways, by computing on it and by taking room in the cache and turns at the memory. The
computation does what the engine does in both: a product of matrices that stay, as in a prefill, and one for a few rows
with matrices that come from memory, as in a decode.

    python -m fluidwait.real.pace CORE      # what the meter runs; a line of input asks for the samples
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from fluidwait.base.errors import FluidwaitError

PERIOD = 0.05  # s between two samples
HIDDEN, WIDE = 512, 704  # a layer: [HIDDEN, WIDE] and [WIDE, HIDDEN] of 32 bits
MANY, FEW = 16, 4  # rows that go through the first layer, through the next in turn
LAYERS = 20  # 58 MB, more than the caches hold
COMPUTATION = f"float32 {MANY} and {FEW} rows through {LAYERS} x [{HIDDEN}, {WIDE}, {HIDDEN}] every {PERIOD:g} s"
SMOOTH = 0.5  # s on either side of a moment whose samples say its pace
STEP = 0.25  # s in which a clock goes evenly
OUTLIER = 3.0  # times the median: a longer sample was disturbed and counts as this long


class Meter:
    """Takes samples on ``core`` until it is closed."""

    def __init__(self, core: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # the pipes asked for
        self._asks, self._answers = self._process.stdin, self._process.stdout
        self.take()  # it has started

    def take(self) -> np.ndarray:
        """Samples since the last call, float64[n, 2]: when (s, monotonic clock), processor time (s).

        Raises:
            FluidwaitError: the meter is gone.
        """
        try:
            self._asks.write("\n")
            self._asks.flush()
            line = self._answers.readline()
        except OSError:
            line = ""
        if not line:
            raise FluidwaitError("the process that measures the machine's pace has ended; run again to go on")
        return np.array(json.loads(line), dtype=np.float64).reshape(-1, 2)

    def close(self) -> None:
        self._asks.close()
        self._answers.close()
        self._process.wait()


class Pace:
    """Samples of a meter; with none, the pace is always the reference.

    Args:
        samples: float64[n, 2], as of :meth:`Meter.take`, in the order of time.
        reference: seconds of a sample at pace 1; the average of these samples if it is not given.
    """

    def __init__(self, samples: Any, reference: float | None = None) -> None:
        samples = np.asarray(samples, dtype=np.float64).reshape(-1, 2)
        self.time, seconds = samples.T
        if len(seconds):
            seconds = np.minimum(seconds, OUTLIER * np.median(seconds))
        self.average = float(seconds.mean()) if len(seconds) else 1.0  # s
        self.reference = self.average if reference is None else reference
        self._sums = np.concatenate([[0.0], np.cumsum(seconds)])

    def during(self, begin: Any, end: Any) -> np.ndarray:
        """Pace between these moments (s), arrays of one shape or numbers."""
        first = np.searchsorted(self.time, np.asarray(begin) - SMOOTH)
        last = np.searchsorted(self.time, np.asarray(end) + SMOOTH)
        if not len(self.time):
            return np.ones(np.shape(first))
        count = last - first
        mean = (self._sums[last] - self._sums[first]) / np.maximum(count, 1)
        return np.where(count > 0, mean, self.average) / self.reference


class Clock:
    """Time on a machine that is always at pace 1, from 0 on: what takes a second at pace 1.25 takes 0.8 s there.

    Iterations that are planned on this clock last as long as the machine let them.
    """

    def __init__(self, pace: Pace) -> None:
        end = float(pace.time[-1]) if len(pace.time) else 0.0
        edges = STEP * np.arange(int(max(end, 0.0) / STEP) + 1)
        paces = pace.during(edges[:-1], edges[1:])
        mean = float(paces.mean()) if len(paces) else float(pace.during(0.0, end))
        # Past the last sample it goes on at the mean pace: a simulated run may last longer than the real one.
        self._time = np.append(edges, edges[-1] + 1e6)
        self._even = np.concatenate([[0.0], np.cumsum(STEP / paces)])
        self._even = np.append(self._even, self._even[-1] + 1e6 / mean)

    def even(self, moments: np.ndarray) -> np.ndarray:
        """What this clock shows at these moments (s, from 0 on)."""
        return np.interp(moments, self._time, self._even)

    def lasted(self, begin: np.ndarray, duration: np.ndarray) -> float:
        """Sum of these stretches of time (s) on this clock."""
        return float((self.even(begin + duration) - self.even(begin)).sum())

    def moments(self, even: np.ndarray) -> np.ndarray:
        """When (s) it shows this: the inverse of :meth:`even`."""
        return np.interp(even, self._even, self._time)


def worker_core() -> int | None:
    """A core that a process started by this one, as vLLM's worker on a CPU, is bound to; None if none is bound."""
    import psutil  # comes with vLLM

    me = psutil.Process()
    if not hasattr(me, "cpu_affinity"):  # macOS
        return None
    bound = []
    for child in me.children(recursive=True):
        try:
            cores = child.cpu_affinity()
        except psutil.Error:
            continue
        if len(cores) < len(me.cpu_affinity()):
            bound.append(min(cores))
    return min(bound, default=None)


def _measure(core: int) -> None:
    """Sample until the input ends; answer every line of it with the samples since the last one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input ends it
    os.sched_setaffinity(0, {core})
    random = np.random.default_rng(0)
    many, few = (random.standard_normal((rows, HIDDEN), np.float32) for rows in (MANY, FEW))
    shapes = ((HIDDEN, WIDE), (WIDE, HIDDEN))
    layers = [[random.standard_normal(shape, np.float32) for shape in shapes] for _ in range(LAYERS)]

    def compute(layer: int) -> None:
        many @ layers[0][0] @ layers[0][1]
        few @ layers[layer][0] @ layers[layer][1]

    for layer in range(LAYERS):  # warm up
        compute(layer)
    samples: list[tuple[float, float]] = []
    turn, due = 0, time.monotonic()
    while True:
        asked, _, _ = select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))
        if asked:
            if not sys.stdin.readline():
                return
            print(json.dumps(samples), flush=True)
            samples = []
        if time.monotonic() >= due:
            begin, spent = time.monotonic(), time.thread_time()
            compute(turn := (turn + 1) % LAYERS)
            samples.append((begin, time.thread_time() - spent))
            due = time.monotonic() + PERIOD


if __name__ == "__main__":
    _measure(int(sys.argv[1]))
