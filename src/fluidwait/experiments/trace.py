"""Memory against time: the KV tokens resident and the evictions so far, for some rates of an experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError
from fluidwait.engines.simulator import LOG_COLUMNS
from fluidwait.experiments.setting import Setting
from fluidwait.experiments.sweep import code_of, identity, run_once, winners
from fluidwait.workload import input_files

BUCKETS = 1000
"""Stretches of a run, with equally many iterations each, of which the least and the largest memory are kept."""


def trace(setting: Setting, key: str, scale: str, tuning: str | None = None) -> Artifact:
    """The memory of one replication, simulated at every rate of the experiment's ``traces``.

    Columns: rate (requests/s); time (s), the end of an iteration; kv_tokens of all residents, before the finished ones
    leave; share of the KV memory; evictions since time 0. Long runs are thinned, see :func:`extremes`.

    Raises:
        ConfigError: the experiment asks for no trace of this policy; when it is made: or for one at a rate at which it
            is not tuned.
    """
    asked = setting.experiment.traces_of(key)

    def write(path: Path, _: str) -> None:
        chosen = winners(tuning)
        _check_tuned(setting, key, asked.rates, chosen)
        pl.concat([_one(setting, key, scale, rate, chosen.get(rate)) for rate in asked.rates]).write_csv(path)

    return Artifact(
        write,
        identity(setting, key, scale) | {"traces": {"rates": asked.rates, "replication": asked.replication}},
        tuple(sorted({*code_of(setting, key), *imported_modules(__name__)})),
        rule="trace",
        inputs=names([*input_files(setting.workload), *([tuning] if tuning else [])]),
    )


def _check_tuned(setting: Setting, key: str, rates: list[float], chosen: dict[float, dict]) -> None:
    if untuned := [rate for rate in rates if chosen and rate not in chosen]:
        nearest_rate = min(chosen, key=lambda rate: abs(rate - untuned[0]))
        raise ConfigError(
            f"experiment {setting.experiment.id}: traces.rates: {key} is not tuned at {untuned[0]:g} requests/s "
            f"(nearest valid value: {nearest_rate:g})"
        )


def _one(setting: Setting, key: str, scale: str, rate: float, change: dict | None) -> pl.DataFrame:
    experiment = setting.experiment
    policy = setting.policy(key, change)
    replication = experiment.traces_of(key).replication
    requests = setting.evaluation(scale, experiment.horizons_at(scale)[-1], rate, replication)
    run = run_once(setting, key, policy, requests, rate, log=True)
    assert run.log is not None  # asked for
    log = pl.DataFrame(run.log, schema=list(LOG_COLUMNS))
    capacity = setting.semantics.blocks * setting.semantics.block_size
    return log[extremes(run.log[:, LOG_COLUMNS.index("kv_tokens")])].select(
        rate=pl.lit(rate),
        time=pl.col("start") + pl.col("duration"),
        kv_tokens=pl.col("kv_tokens").cast(int),
        share=pl.col("kv_tokens") / capacity,
        evictions=pl.col("evictions").cast(int),
    )


def extremes(values: np.ndarray, buckets: int = BUCKETS) -> np.ndarray:
    """Positions of the least and the largest value of each of ``buckets`` stretches, and of the last, ascending.

    At most 2 buckets + 1 positions; all of them when there are no more values than that. No extreme of any stretch of
    whole buckets is lost.
    """
    if len(values) <= 2 * buckets + 1:
        return np.arange(len(values))
    kept = {len(values) - 1}
    for part in np.array_split(np.arange(len(values)), buckets):
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    return np.array(sorted(kept))
