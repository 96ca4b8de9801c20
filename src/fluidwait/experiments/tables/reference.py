"""E1 beside the latencies published with the paper's earlier code, and what explains the distance.

Columns of our own, all with the settings of the published runs and all requests counted, as there:

* ``exact``: Poisson arrivals, all replications; ``truncated``: gaps cut at 3/rate as Vidur's own generator does, so
  5.2 % more load (the published runs did not use it);
* ``stream``: our simulator and time model on the arrivals of the published runs, one run as there;
* ``replayed``: the same arrivals through the earlier code's schedulers and predictor of iteration times, see
  :mod:`fluidwait.experiments.replay`.

Our WAIT runs with a bound on the tokens of a batch, which the paper's text leaves out: ceil(tl - P K + P K cs) with K
chunks per prompt and P = tl / (K + output) requests per stage. ``gated`` is WAIT with its gate, held at most 20 ms per
request: a gate without limit more than triples the latency at 12 requests/s.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.tables import read_columns
from fluidwait.engines.simulator import simulate
from fluidwait.experiments import replay
from fluidwait.experiments.setting import Setting, resolve
from fluidwait.policies import Policy, load_policy
from fluidwait.stats.metrics import mean_interval
from fluidwait.workload import Requests

PUBLISHED = "data/reference/e1_published.csv"
MEDIANS = "data/reference/attention_medians.csv"
COUNT = 5000  # requests of a published run


FILES = (PUBLISHED, MEDIANS)
CODE = ("fluidwait.policies.sarathi", "fluidwait.policies.wait_chunked")


def table(setting: Setting, scale: str, results: Path) -> pl.DataFrame:
    """One row per policy and rate of the published table; see the module's text for the columns."""
    published, medians = project_root() / PUBLISHED, project_root() / MEDIANS
    experiment = setting.experiment.model_copy(update={"seed": setting.experiment.seed_at(scale)})
    settings = {
        process: resolve(experiment.model_copy(update={"arrivals": process}))
        for process in ("poisson", "poisson_truncated")
    }
    sizes = experiment.scale(scale)
    return _table(settings, published, medians, sizes.requests, sizes.replications)


def identity(setting: Setting, scale: str) -> dict[str, Any]:
    """Everything in the configuration that decides the table."""
    sizes = setting.experiment.scale(scale)
    return {
        "experiment": setting.experiment.id,
        "hardware": setting.hardware.model_dump(mode="json", exclude={"source", "fit"}),
        "requests": sizes.requests,
        "replications": sizes.replications,
        "seed": setting.experiment.seed_at(scale),
    }


def check(setting: Setting, scale: str) -> None:
    """Refuse an experiment that the published runs cannot be repeated in.

    Raises:
        ConfigError: its hardware has no measured profile, or a file is missing.
    """
    if setting.hardware.timing.profile is None:
        raise ConfigError(f"'reference' needs timing.profile, which hardware {setting.hardware.name} lacks")
    for path in FILES:
        if not (project_root() / path).is_file():
            raise ConfigError(f"'reference' needs {path}, which is not there")


def in_service(rate: float) -> int:
    """The cap tl of the published WAIT."""
    return 20 if rate <= 23 else 30


def published_policy(name: str, rate: float, prompt: int, output: int) -> dict[str, Any]:
    """The settings of the published runs; ``gated`` is WAIT with its gate."""
    if name == "sarathi":
        return {"policy": "sarathi", "token_budget": 512, "max_requests": 256}
    limit, chunk = in_service(rate), 256
    chunks = math.ceil(prompt / chunk)
    in_prefill = limit * chunks / (chunks + output)
    bound = math.ceil(limit - in_prefill + in_prefill * chunk)
    settings = {"policy": "wait_chunked", "in_service": limit, "chunk": chunk, "batch_tokens": bound}
    return settings | {"gate": name == "gated"}


def _table(settings: dict[str, Setting], published: Path, medians: Path, n: int, replications: int) -> pl.DataFrame:
    columns = read_columns(published, {}, real=("rate", "sarathi", "wait"))
    exact, truncated = settings["poisson"], settings["poisson_truncated"]
    seconds = predictor(exact, medians)
    rows = []
    for name in ("sarathi", "wait"):
        for rate, known in zip(columns["rate"].tolist(), columns[name].tolist(), strict=True):
            policy = _policy(name, rate, exact.law)
            row: dict[str, Any] = {"policy": name, "rate": rate, "published": known}
            row |= _distance("exact", _latencies(exact, policy, rate, n, replications), known)
            row |= _distance("truncated", _latencies(truncated, policy, rate, n, replications), known)
            row |= _distance("stream", [stream_latency(exact, policy, rate)], known)
            row |= _distance("replayed", [replayed_latency(name, rate, seconds)], known)
            if name == "wait":
                gated = _policy("gated", rate, exact.law)
                row |= _distance("gated", _latencies(exact, gated, rate, n, replications), known)
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def predictor(setting: Setting, medians: Path) -> replay.Predictor:
    """Iteration times as the earlier code predicts them, from the hardware's profile and the attention kernels."""
    profile, layers = setting.hardware.timing.profile, setting.hardware.model.layers
    assert profile is not None  # the time model of the experiment is made of it
    return replay.Predictor(np.asarray(profile.tokens), np.asarray(profile.seconds), medians, layers)


def replayed_latency(name: str, rate: float, seconds: replay.Seconds, count: int = COUNT) -> float:
    """Mean latency of a published run, replayed."""
    plan = replay.sarathi() if name == "sarathi" else replay.wait(in_service(rate))
    return float(replay.replay(replay.arrivals(rate, count), plan, seconds).mean())


def stream_latency(setting: Setting, policy: Policy, rate: float, count: int = COUNT) -> float:
    """Mean latency of our simulator on the published arrivals."""
    ones = np.ones(count, dtype=np.int64)
    requests = Requests(replay.arrivals(rate, count), ones * replay.PROMPT, ones * replay.OUTPUT, 0 * ones)
    return _mean_latency(setting, policy, rate, requests)


def _policy(name: str, rate: float, law) -> Policy:
    return load_policy(published_policy(name, rate, int(law.prompt[0]), int(law.output[0])), "reference")


def _latencies(setting: Setting, policy: Policy, rate: float, n: int, replications: int) -> list[float]:
    """Mean latency over all requests, as published, of every replication."""
    seed = setting.experiment.seed
    return [_mean_latency(setting, policy, rate, setting.requests(n, rate, seed, r)) for r in range(replications)]


def _mean_latency(setting: Setting, policy: Policy, rate: float, requests: Requests) -> float:
    knobs = policy.prepare(setting.context(rate))
    run = simulate(requests, policy, knobs, setting.time_model, setting.semantics)
    return float((run.completion - requests.arrival).mean())


def _distance(column: str, latencies: list[float], known: float) -> dict[str, float]:
    interval = mean_interval(latencies)
    values = {column: interval.mean, f"{column}_distance": interval.mean / known - 1}
    if len(latencies) > 1:
        values |= {f"{column}_low": interval.low, f"{column}_high": interval.high}
    return values
