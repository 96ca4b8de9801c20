"""Run one policy of an experiment over its rates and replications, and search its grid if it has one.

Every policy meets the same requests (common random numbers): they depend on the workload, the rate, the seed and the
replication only. A grid is searched at every rate on requests of another seed, which the evaluation never sees.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.canonical import canonical_json, config_hash
from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.records import REQUESTS, RecordWriter
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import load_table
from fluidwait.engines.learning import Learned
from fluidwait.engines.simulator import Run, simulate
from fluidwait.experiments.experiment import PolicyEntry, replayed_rows
from fluidwait.experiments.setting import Setting
from fluidwait.policies import Policy
from fluidwait.stats.metrics import run_metrics
from fluidwait.workload import Requests, input_files, rows_used


def columns_of(requests: Requests, run: Run) -> dict[str, np.ndarray]:
    """The columns of the requests schema of one run, N each."""
    return {
        "request_id": np.arange(len(requests.arrival)),
        "kind": requests.kind,
        "arrival": requests.arrival,
        "first_token": run.first_token,
        "completion": run.completion,
        "prompt_tokens": requests.prompt,
        "output_tokens": requests.output,
        "evictions": run.evictions,
    }


def knobs_of(setting: Setting, key: str, policy: Policy, rate: float) -> Any:
    """The knobs of ``policy``, that of this entry, at a rate; where the plug-in learns them, that."""
    return Learned() if setting.experiment.entry(key).learns else policy.prepare(setting.context(rate))


def run_once(setting: Setting, key: str, policy: Policy, requests: Requests, rate: float, *, log: bool = False) -> Run:
    """One simulation of one policy; ``log`` as of :func:`~fluidwait.engines.simulator.simulate`."""
    knobs = knobs_of(setting, key, policy, rate)
    return simulate(requests, policy, knobs, setting.time_model, setting.semantics, log=log)


def identity(setting: Setting, key: str, scale: str) -> dict[str, Any]:
    """Everything besides inputs and code that decides a policy's results: the resolved configuration."""
    experiment, entry = setting.experiment, setting.experiment.entry(key)
    elsewhere = {"rates", "requests", "horizons", "audit_requests"}
    sizes = experiment.scale(scale).model_dump(exclude=elsewhere | _unused(entry))
    return {
        "engine": "simulator",
        "experiment": experiment.id,
        "hardware": setting.hardware.model_dump(mode="json", exclude={"source", "fit"}),
        "workload": setting.workload.model_dump(mode="json"),
        "semantics": setting.semantics._asdict(),
        "time_model": experiment.time_model,
        "rates": experiment.rates_at(scale),
        "horizons": experiment.horizons_at(scale),
        "window": experiment.window,
        "seed": experiment.seed_at(scale),
        "tuning_seed": experiment.tuning_seed_at(scale) if entry.grid else None,
        "scale": sizes,
        "policy": {"use": entry.use, "grid": entry.grid} | _settings(setting, key) | _learns(entry),
    } | _trace(setting, scale)


def _trace(setting: Setting, scale: str) -> dict[str, Any]:
    rows = replayed_rows(setting.experiment, setting.workload, scale)
    return {} if rows is None else {"trace": rows}


def _unused(entry: PolicyEntry) -> set[str]:
    return set() if entry.grid else {"tuning_requests", "tuning_replications"}


def _learns(entry: PolicyEntry) -> dict[str, bool]:
    return {"learns": True} if entry.learns else {}


def _settings(setting: Setting, key: str) -> dict[str, Any]:
    first = setting.experiment.entry(key).combinations()[0]
    settings = setting.policy(key, first).settings.model_dump(mode="json")
    return {"settings": {name: value for name, value in settings.items() if name not in first}}


def code_of(setting: Setting, key: str) -> tuple[str, ...]:
    """Modules that compute a policy's results, the policy's own among them."""
    entry = setting.experiment.entry(key)
    policy = setting.policy(key, entry.combinations()[0])
    return imported_modules(__name__, policy.code)


# --- tuning --------------------------------------------------------------------------------------------------------


def tuning(setting: Setting, key: str, scale: str) -> Artifact:
    """The search of the policy's grid at every rate: one row per rate and combination, the best one marked.

    The best has the least mean latency over the tuning runs; the earlier in the file wins a tie. Combinations that the
    policy refuses (more segments than requests in service, say) are kept with the reason and without a latency.
    """
    return Artifact(
        lambda path, _: search(setting, key, scale).write_csv(path),
        identity(setting, key, scale),
        code_of(setting, key),
        rule="tune",
        inputs=names(input_files(setting.workload)),
    )


def search(setting: Setting, key: str, scale: str) -> pl.DataFrame:
    """The table of :func:`tuning`."""
    sizes, entry = setting.experiment.scale(scale), setting.experiment.entry(key)
    rows = []
    for rate in setting.experiment.rates_at(scale):
        samples = [setting.tuning(scale, rate, r) for r in range(sizes.tuning_replications)]
        tried = [_try(setting, key, change, samples, rate) for change in entry.combinations()]
        feasible = [row for row in tried if row["mean_latency"] is not None]
        if not feasible:
            raise ConfigError(f"experiment {setting.experiment.id}: policies.{key}.grid: {tried[0]['reason']}")
        min(feasible, key=lambda row: row["mean_latency"])["winner"] = True
        rows += tried
    schema = {"rate": float, "settings": str, "mean_latency": float, "reason": str, "winner": bool}
    return pl.DataFrame(rows, schema=schema)


def _try(setting: Setting, key: str, change: dict[str, Any], samples: list[Requests], rate: float) -> dict[str, Any]:
    row = {"rate": rate, "settings": canonical_json(change), "mean_latency": None, "reason": "", "winner": False}
    try:
        policy = setting.policy(key, change)
        latencies = [
            run_metrics(columns_of(sample, run), window=setting.experiment.window)
            for sample in samples
            for run in [run_once(setting, key, policy, sample, rate)]
        ]
    except ConfigError as error:
        return row | {"reason": str(error)}
    return row | {"mean_latency": float(np.mean([metrics.mean_latency for metrics in latencies]))}


def winners(tuning: str | Path | None) -> dict[float, dict[str, Any]]:
    """The chosen combination of every rate; empty without a tuning table."""
    return {} if tuning is None else winners_in(load_table(tuning))


def winners_in(table: pl.DataFrame) -> dict[float, dict[str, Any]]:
    """The chosen combination of every rate, in a table of :func:`search`."""
    table = table.filter(pl.col("winner"))
    return {rate: json.loads(settings) for rate, settings in zip(table["rate"], table["settings"], strict=True)}


# --- evaluation ----------------------------------------------------------------------------------------------------


def records(setting: Setting, key: str, scale: str, tuning: str | None = None) -> Artifact:
    """The runs of the policy at every rate and in every replication, in one records file.

    Args:
        tuning: table of :func:`tuning`, of a policy with a grid.
    """
    config = identity(setting, key, scale)
    return Artifact(
        lambda path, digest: _write_runs(setting, key, scale, winners(tuning), config, path, digest),
        config,
        code_of(setting, key),
        rule="sweep",
        inputs=names([*input_files(setting.workload), *([tuning] if tuning else [])]),
    )


def run_id(rate: float, replication: int, requests: int | None = None) -> str:
    """Name of a run inside a records file; with the number of requests in an experiment that varies it."""
    horizon = "" if requests is None else f",requests={requests}"
    return f"rate={rate:g}{horizon},replication={replication}"


def _write_runs(setting, key, scale, chosen, config, path: Path, digest: str) -> None:
    experiment, sizes = setting.experiment, setting.experiment.scale(scale)
    horizons = experiment.horizons_at(scale)
    with RecordWriter(path, REQUESTS, engine="simulator", policy=key, config_hash=digest) as writer:
        for rate in experiment.rates_at(scale):
            policy = setting.policy(key, chosen.get(rate))
            settings = policy.settings.model_dump(mode="json")
            for n, replication in itertools.product(horizons, range(sizes.replications)):
                requests = setting.evaluation(scale, n, rate, replication)
                run = run_once(setting, key, policy, requests, rate)
                rows = _rows(setting, scale, n, replication)
                own = {"rate": rate, "replication": replication} | ({"requests": n} if len(horizons) > 1 else {})
                writer.append(
                    run_id(**own),
                    columns_of(requests, run),
                    config_hash=config_hash(config | own | {"settings": settings}),
                    parameters=own | rows | {"settings": canonical_json(settings)},
                )


def _rows(setting: Setting, scale: str, n: int, replication: int) -> dict[str, int]:
    """Which rows of a replayed trace a run used, from 1 on."""
    if setting.workload.arrivals.process != "trace":
        return {}
    first, last, _ = rows_used(setting.workload, n, replication, setting.experiment.stretches_at(scale))
    return {"first_row": first, "last_row": last}
