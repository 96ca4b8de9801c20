"""E12: what the runs say. The best static policies, latencies beside them, and the frontier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from fluidwait.artifacts.step import Artifact
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.e12 import E12
from fluidwait.studies.loads import METRICS, read_runs, with_changes
from fluidwait.studies.study import table_product

RUN = ("workload", "share", "rate", "replication")
"""What the runs of policies on the same requests have in common."""

COUNTS = ("evictions", "recomputed")
"""Per request, and as a share of the tokens computed."""

OVER = {"mean": "over_mean", "p99": "over_p99"}
"""Columns by which a policy is above the envelope, as a share of it."""

CHANGE = {"mean": "change_mean", "p99": "change_p99", "ttft": "change_ttft"}
"""Columns by which it differs from the baseline, as a share of it."""


def envelope(study: E12, statics: tuple[str, ...], scale: str) -> Artifact:
    """Of every load and rate the static policy with the least mean latency over the replications.

    ``tried`` settings were run, and ``final`` of them in all replications.

    Args:
        statics: tables of :func:`fluidwait.studies.frontier.statics`, all loads.
    """
    return _table(study, scale, statics, lambda: best(_statics(statics)))


def latency(study: E12, runs: tuple[str, ...], statics: tuple[str, ...], scale: str) -> Artifact:
    """Means over the replications, beside the envelope and the baseline on the same requests.

    ``low`` and ``high`` belong to ``mean``. ``ratio`` is mean / mean of the envelope, its mean over replications with
    the interval ``ratio_low`` to ``ratio_high``; ``ratio_p99`` is the same of the 99th percentiles; ``change`` is
    mean / mean of the baseline - 1, with its interval. ``drawn``: in the figure of the envelope.

    Args:
        runs: tables of :func:`fluidwait.studies.frontier.runs`, all loads. statics: as of :func:`envelope`.
    """
    return _table(study, scale, (*runs, *statics), lambda: summarised(study, _runs(runs), _statics(statics)))


def frontier(study: E12, runs: tuple[str, ...], statics: tuple[str, ...], scale: str) -> Artifact:
    """A row for each load and policy: what it carries, and the worst of what that costs at lower rates.

    ``lambda_star``, ``low``, ``high`` are requests/s, the mean over replications with its 95 % interval.
    ``worst_latency_ratio`` and ``worst_p99_ratio`` are the largest ratios to the envelope over the rates, and
    ``recomputed_share`` is the largest share of recomputed tokens over the rates and the overload. ``latency_change``
    is the change of the mean latency from the baseline at the share ``compared``.
    """
    return _table(study, scale, (*runs, *statics), lambda: ranked(study, _runs(runs), _statics(statics)))


def best(statics: pl.DataFrame) -> pl.DataFrame:
    """The table of :func:`envelope`."""
    found = []
    for point, part in statics.group_by(["workload", "share", "rate"], maintain_order=True):
        tried, final = part.filter(~pl.col("final")), part.filter("final")
        means = final.group_by("settings", maintain_order=True).agg(pl.col("mean").mean()).sort("mean")
        chosen = final.filter(pl.col("settings") == means["settings"][0])
        mean = mean_interval(chosen["mean"])
        row = dict(zip(("workload", "share", "rate"), point, strict=True)) | {"settings": means["settings"][0]}
        row |= {"tried": tried.height, "final": means.height, "replications": chosen.height}
        row |= {name: chosen[name].mean() for name in (*METRICS, *COUNTS)}
        found.append(row | {"low": mean.low, "high": mean.high})
    return pl.DataFrame(found)


def summarised(study: E12, runs: pl.DataFrame, statics: pl.DataFrame) -> pl.DataFrame:
    """The table of :func:`latency`."""
    rates = runs.filter(pl.col("carried").is_null())
    chosen = statics.filter("final").join(best(statics), on=["workload", "share", "settings"], how="semi")
    both = with_changes(rates, chosen, [*RUN], OVER)
    both = with_changes(both, rates.filter(pl.col("policy") == study.baseline), [*RUN], CHANGE)
    found = []
    for point, part in both.group_by(["workload", "share", "rate", "policy"], maintain_order=True):
        row: dict[str, Any] = dict(zip(("workload", "share", "rate", "policy"), point, strict=True))
        load, policy = row["workload"], row["policy"]
        row |= {"load": study.loads[load].label, "label": study.policies[policy].label}
        row |= {"lengths": study.policies[policy].lengths, "is_baseline": policy == study.baseline}
        row |= {"drawn": load in study.drawn.loads and policy in study.drawn.policies, "replications": part.height}
        row |= {name: part[name].mean() for name in (*METRICS, *COUNTS)}
        mean, over, change = (mean_interval(part[name]) for name in ("mean", "over_mean", "change_mean"))
        row |= {"low": mean.low, "high": mean.high}
        row |= {"ratio": 1 + over.mean, "ratio_low": 1 + over.low, "ratio_high": 1 + over.high}
        row |= {"ratio_p99": 1 + mean_interval(part["over_p99"]).mean}
        row |= {"change": change.mean, "change_low": change.low, "change_high": change.high}
        found.append(row | {name: part[name].mean() for name in ("change_p99", "change_ttft")})
    return pl.DataFrame(found)


def ranked(study: E12, runs: pl.DataFrame, statics: pl.DataFrame) -> pl.DataFrame:
    """The table of :func:`frontier`."""
    points, found = summarised(study, runs, statics), []
    for (load, policy), part in runs.group_by(["workload", "policy"], maintain_order=True):
        told = part.filter(pl.col("carried").is_not_null())
        usable, fluid = told["usable_bound"][0], told["fluid_bound"][0]
        star = mean_interval(told["carried"] * usable)
        rates = points.filter((pl.col("workload") == load) & (pl.col("policy") == policy))
        compared = rates.filter(pl.col("share") == study.compared)
        row = {"workload": load, "policy": policy, "lengths": study.policies[str(policy)].lengths}
        row |= {"load": study.loads[str(load)].label, "label": study.policies[str(policy)].label}
        row |= {"lambda_star": star.mean, "low": star.low, "high": star.high}
        row |= {"share_of_usable_bound": star.mean / usable, "share_of_bound": star.mean / fluid}
        row |= {"worst_latency_ratio": rates["ratio"].max(), "worst_p99_ratio": rates["ratio_p99"].max()}
        recomputed = part.group_by("share").agg(pl.col("recomputed").mean())["recomputed"]
        found.append(row | {"recomputed_share": recomputed.max(), "latency_change": compared["change"][0]})
    return pl.DataFrame(found)


def _table(study: E12, scale: str, inputs: tuple[str, ...], table: Callable[[], pl.DataFrame]) -> Artifact:
    identity = {name: getattr(study, name) for name in ("labels", "load_labels", "baseline", "compared")}
    identity |= {"lengths": {key: entry.lengths for key, entry in study.policies.items()}}
    identity |= {"drawn": study.drawn.model_dump(), "scale": scale}
    return table_product(table, identity=identity, module=__name__, rule="study_frontier", inputs=inputs)


def _runs(tables: tuple[str, ...]) -> pl.DataFrame:
    return read_runs(tables, (*RUN, "policy", *METRICS, *COUNTS, "carried", "fluid_bound", "usable_bound"))


def _statics(tables: tuple[str, ...]) -> pl.DataFrame:
    return read_runs(tables, (*RUN, "settings", "final", *METRICS, *COUNTS))
