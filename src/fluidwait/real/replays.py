"""Published recordings of vLLM replayed by the simulator: the fifteen quantities of each, and its state over time.

The simulator gets the requests with the blocks of their prompts, the engine's settings, and iteration times calibrated
from kernel profiles alone. It gets no time of the recording but when each request was queued.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fluidwait.base.tables import highest
from fluidwait.device.timing import TimeModel
from fluidwait.engines.simulator import LOG_COLUMNS
from fluidwait.engines.v1.run import Served, serve
from fluidwait.real.published import Published
from fluidwait.workload import Requests

STATISTICS = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
"""Percentiles of the published comparison, besides the mean."""

AS_MEASURED, AS_EQUAL = "as measured", "taken as equal"
"""Whether unequal lengths of the decodes cost what the kernel profile says (the recipe), or nothing (a variant)."""

STATE = ("running", "waiting", "kv")
SHOWN = {"ours": AS_MEASURED, "equal": AS_EQUAL}
"""Columns of the timeline: what, and of which replay."""

DIGITS = 6


class Mode(NamedTuple):
    """One way to replay a recording."""

    lengths: str = AS_MEASURED
    asynchronous: bool = False

    def time_model(self, of: TimeModel) -> TimeModel:
        return of if self.lengths == AS_MEASURED else of._replace(alone_uneven=0.0 * of.alone_uneven)


def replay(published: Published, mode: Mode, rows: np.ndarray | None = None) -> Served:
    """Serve the recorded requests; ``rows`` as of :func:`serve`."""
    rules, time_model = published.rules(asynchronous=mode.asynchronous), published.hardware().time_model()
    return serve(published.sent, mode.time_model(time_model), rules, hashes=published.hashes(), rows=rows)


def quantities(sent: Requests, first_token: np.ndarray, completion: np.ndarray) -> dict[tuple[str, str], float]:
    """Seconds by (quantity, statistic): time to first token, per further token, and latency, from queueing on."""
    of = {
        "ttft": first_token - sent.arrival,
        "tpot": (completion - first_token) / np.maximum(sent.output - 1, 1),
        "latency": completion - sent.arrival,
    }
    found = {}
    for quantity, seconds in of.items():
        found[quantity, "mean"] = float(seconds.mean())
        found |= {(quantity, name): float(np.percentile(seconds, p)) for name, p in STATISTICS.items()}
    return found


def errors(recordings: list[Published]) -> pl.DataFrame:
    """Fifteen rows per recording: vLLM, the simulator without and with asynchronous scheduling, and the reference."""
    rows: list[dict[str, Any]] = []
    for published in recordings:
        sent = published.sent
        real = quantities(sent, *(published.table[c].to_numpy() for c in ("first_token_s", "last_token_s")))
        ours, overlapped = (_of(published, Mode(asynchronous=overlap)) for overlap in (False, True))
        for of in published.reference().to_dicts():
            key = of["quantity"], of["statistic"]
            rows.append(
                {
                    "record": published.name,
                    "quantity": key[0],
                    "statistic": key[1],
                    "vllm_s": round(real[key], DIGITS),
                    "ours_s": round(ours[key], DIGITS),
                    "error_percent": _percent(ours[key], real[key]),
                    "ours_async_s": round(overlapped[key], DIGITS),
                    "async_error_percent": _percent(overlapped[key], real[key]),
                    "reference_error_percent": of["llmservingsim_error_percent"],
                }
            )
    return pl.DataFrame(rows)


def _of(published: Published, mode: Mode) -> dict[tuple[str, str], float]:
    served = replay(published, mode)
    return quantities(published.sent, served.first_token, served.completion)


def _percent(ours: float, real: float) -> float:
    return round(100 * (ours / real - 1), 2)


def variants(recordings: list[Published]) -> pl.DataFrame:
    """One row per recording and :class:`Mode`: the fifteen errors in short, preemptions and iterations."""
    rows = []
    for published in recordings:
        sent = published.sent
        real = quantities(sent, *(published.table[c].to_numpy() for c in ("first_token_s", "last_token_s")))
        for lengths in (AS_MEASURED, AS_EQUAL):
            for overlap in (False, True):
                served = replay(published, Mode(lengths, overlap))
                ours = quantities(sent, served.first_token, served.completion)
                error = np.array([abs(_percent(ours[key], real[key])) for key in real])
                rows.append(
                    {
                        "record": published.name,
                        "unequal_lengths": lengths,
                        "scheduling": "asynchronous" if overlap else "synchronous",
                        "mean_absolute_error_percent": round(float(error.mean()), 2),
                        "worst_error_percent": float(error.max()),
                        "within_1_percent": int((error <= 1).sum()),
                        "preemptions": int(served.preemptions.sum()),
                        "iterations": served.iterations,
                    }
                )
    return pl.DataFrame(rows)


def timeline(recordings: list[Published]) -> pl.DataFrame:
    """The engine's state every second: its own log, and the simulator with asynchronous scheduling.

    ``kv`` are shares of the KV memory in percent. The simulator's counts the tokens of the running requests, those
    that several share as often, up to 100. The log's is empty where the engine did not say. ``equal`` is the variant.
    """
    return pl.concat([_timeline(published) for published in recordings])


def _timeline(published: Published) -> pl.DataFrame:
    log = published.timeseries().rename({"kv_cache_percent": "kv"})
    if not log["kv"].max():
        log = log.with_columns(kv=pl.lit(None))
    states = {name: _state(published, Mode(lengths, True)) for name, lengths in SHOWN.items()}
    end = int(max(highest(seen["t_s"]) for seen in (log, *states.values())))
    table = pl.DataFrame({"record": published.name, "t_s": np.arange(1, end + 1)})
    recorded = log.select("t_s", *(pl.col(name).cast(pl.Float64) for name in STATE))
    for name, state in {"vllm": recorded, **states}.items():
        renamed = state.rename({column: f"{column}_{name}" for column in STATE})
        table = table.join(renamed, on="t_s", how="left", maintain_order="left")
    return table


def _state(published: Published, mode: Mode) -> pl.DataFrame:
    """Of the simulator, every second until everything is done."""
    rows = np.zeros((replay(published, mode).iterations, len(LOG_COLUMNS)))
    served, rules = replay(published, mode, rows), published.rules(asynchronous=mode.asynchronous)
    at = np.arange(1, int(served.completion.max()) + 2)
    step = np.maximum(np.searchsorted(rows[:, 0], at, side="right") - 1, 0)
    busy = (at >= rows[step, 0]) & (at < rows[step, 0] + rows[step, 1])
    running = np.where(busy, rows[step, 3], 0.0)
    inside = np.searchsorted(np.sort(published.sent.arrival), at, side="right")
    inside -= np.searchsorted(np.sort(served.completion), at, side="right")
    share = np.minimum(100 * rows[step, 4] / (rules.blocks * rules.block_size), 100.0)
    columns = (running, np.maximum(inside - running, 0), np.where(busy, share, 0.0).round(2))
    return pl.DataFrame({"t_s": at, **dict(zip(STATE, columns, strict=True))})
