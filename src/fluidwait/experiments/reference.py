"""E1 beside the latencies published with the paper's earlier code, and what explains the distance.

Four columns of our own, all with the settings of the published runs and all requests counted, as there:

* ``exact``: Poisson arrivals; ``truncated``: gaps cut at 3/rate as Vidur's generator does, so 5.2 % more load;
* ``rounded``: truncated, with the KV tokens of decodes rounded up to multiples of 256, as the predictor of Vidur 0.0.26
  does before it looks its decode attention up;
* ``time_factor``: the one factor on all our iteration times that makes ``truncated`` equal the published latency. Near
  the stability boundary latency is so steep that a percent or two of iteration time covers any distance.

The published WAIT also bounds the tokens of a batch by what a full system would compute, which the paper's text leaves
out: ceil(tl - P K + P K cs) with K chunks per prompt and P = tl / (K + output) requests per stage. We run it with that
bound. Its gate cannot have held requests as the text describes it: at 12 requests/s a gate without limit more than
triples the latency (see ``gated``, the same settings with the gate held at most 20 ms per request).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.columns import read_columns
from fluidwait.engines.simulator import simulate
from fluidwait.experiments.experiment import Experiment, Setting, resolve
from fluidwait.experiments.metrics import mean_interval
from fluidwait.paths import project_root
from fluidwait.policies import Policy, load_policy
from fluidwait.provenance import imported_modules, write_artifact
from fluidwait.timing import TimeModel

PUBLISHED = "data/reference/e1_published.csv"
GRANULARITY = 256  # KV tokens, Vidur 0.0.26's default kv_cache_prediction_granularity
FACTORS = (0.85, 1.15)  # where time_factor is searched


def reference(experiment: Experiment, scale: str, out: Path) -> None:
    """Write one row per policy and rate of the published table; see the module's text for the columns."""
    published = project_root() / PUBLISHED
    experiment = experiment.model_copy(update={"seed": experiment.seed_at(scale)})
    settings = {process: _with_arrivals(experiment, process) for process in ("poisson", "poisson_truncated")}
    sizes = experiment.scale(scale)
    write_artifact(
        out,
        lambda path, _: _table(settings, published, sizes.requests, sizes.replications).write_csv(path),
        config={
            "experiment": experiment.id,
            "hardware": settings["poisson"].hardware.model_dump(mode="json", exclude={"source", "fit"}),
            "requests": sizes.requests,
            "replications": sizes.replications,
            "seed": experiment.seed,
        },
        inputs=[published],
        code=imported_modules(__name__, "fluidwait.policies.sarathi", "fluidwait.policies.wait_chunked"),
        rule="reference",
    )


def _with_arrivals(experiment: Experiment, process: str) -> Setting:
    return resolve(experiment.model_copy(update={"arrivals": process}))


def published_policy(name: str, rate: float, prompt: int, output: int) -> dict[str, Any]:
    """The settings of the published runs; ``gated`` is WAIT with its gate."""
    if name == "sarathi":
        return {"policy": "sarathi", "token_budget": 512, "max_requests": 256}
    limit, chunk = (20 if rate <= 23 else 30), 256
    chunks = math.ceil(prompt / chunk)
    in_prefill = limit * chunks / (chunks + output)
    bound = math.ceil(limit - in_prefill + in_prefill * chunk)
    settings = {"policy": "wait_chunked", "in_service": limit, "chunk": chunk, "batch_tokens": bound}
    return settings | {"gate": name == "gated"}


def _table(settings: dict[str, Setting], published: Path, n: int, replications: int) -> pl.DataFrame:
    columns = read_columns(published, {}, real=("rate", "sarathi", "wait"))
    law = settings["poisson"].law
    rows = []
    for name in ("sarathi", "wait"):
        for rate, known in zip(columns["rate"].tolist(), columns[name].tolist(), strict=True):
            policy = _policy(name, rate, law)
            truncated = settings["poisson_truncated"]
            row: dict[str, Any] = {"policy": name, "rate": rate, "published": known}
            rounded = _rounded(truncated.time_model, law)
            for column, setting, model in (
                ("exact", settings["poisson"], truncated.time_model),
                ("truncated", truncated, truncated.time_model),
                ("rounded", truncated, rounded),
            ):
                row |= _distance(column, _latencies(setting, policy, rate, n, replications, model), known)
            if name == "wait":
                gated = _latencies(settings["poisson"], _policy("gated", rate, law), rate, n, replications)
                row |= _distance("gated", gated, known)
            row["time_factor"] = _time_factor(truncated, policy, rate, n, min(replications, 3), known)
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _policy(name: str, rate: float, law) -> Policy:
    return load_policy(published_policy(name, rate, int(law.prompt[0]), int(law.output[0])), "reference")


def _latencies(setting: Setting, policy: Policy, rate, n, replications, model: TimeModel | None = None) -> list[float]:
    """Mean latency over all requests, as published, of every replication."""
    model = model or setting.time_model
    knobs = policy.prepare(setting.context(rate))
    means = []
    for replication in range(replications):
        requests = setting.requests(n, rate, setting.experiment.seed, replication)
        run = simulate(requests, policy, knobs, model, setting.semantics)
        means.append(float((run.completion - requests.arrival).mean()))
    return means


def _distance(column: str, latencies: list[float], known: float) -> dict[str, float]:
    interval = mean_interval(latencies)
    return {
        column: interval.mean,
        f"{column}_low": interval.low,
        f"{column}_high": interval.high,
        f"{column}_distance": interval.mean / known - 1,
    }


def _rounded(model: TimeModel, law) -> TimeModel:
    """Decode attention as if every context were rounded up; exact when all contexts round to the same multiple."""
    first, last = int(law.prompt[0]) + 1, int(law.prompt[0] + law.output[0]) - 1
    up = math.ceil(last / GRANULARITY) * GRANULARITY
    return model._replace(decode_context=model.decode_context * up / ((first + last) / 2))


def scaled(model: TimeModel, factor: float) -> TimeModel:
    """Every iteration ``factor`` times as long."""
    return TimeModel(*(part * factor for part in model))


def _time_factor(setting: Setting, policy: Policy, rate, n, replications, known: float) -> float | None:
    """Bisection for the factor at which the mean latency is ``known``; None outside :data:`FACTORS`."""

    def excess(factor: float) -> float:
        latencies = _latencies(setting, policy, rate, n, replications, scaled(setting.time_model, factor))
        return sum(latencies) / len(latencies) - known

    low, high = FACTORS
    if excess(low) > 0 or excess(high) < 0:
        return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return round((low + high) / 2, 4)
