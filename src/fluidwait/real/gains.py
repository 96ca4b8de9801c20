"""The tables of E10: what the policies gain on the engine itself."""

from __future__ import annotations

import polars as pl

from fluidwait.real.bundle import Bundle
from fluidwait.real.pace import Clock
from fluidwait.real.target import STOCK
from fluidwait.stats.metrics import mean_interval, run_metrics, summarise

POINT = ("variant", "policy", "share", "rate")
"""What replications have in common."""

REDUCTIONS = ("reduction", "paced_reduction", "ttft_reduction")


def runs(bundle: Bundle) -> pl.DataFrame:
    """Metrics of every run; ``paced_latency`` is the mean latency (s) on a clock that goes with the machine's pace."""
    rows, paces = [], bundle.paces()
    for run in bundle.runs():
        own = {name: run.parameters[name] for name in (*POINT, "replication")}
        clock, window = Clock(paces[run.run_id]), bundle.target.window
        even = {name: clock.even(run.columns[name]) for name in ("arrival", "first_token", "completion")}
        paced_latency = run_metrics(run.columns | even, window=window).mean_latency
        metrics = run_metrics(run.columns, window=window)._asdict()
        rows.append(own | metrics | {"paced_latency": paced_latency})
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(bundle: Bundle, metrics: pl.DataFrame) -> pl.DataFrame:
    """Means over the replications with 95 % intervals, by variant, policy and rate."""
    labels = {key: curve.label for key, curve in bundle.target.policies.items()}
    rows = summarise(metrics, list(POINT))
    return rows.insert_column(2, rows["policy"].replace_strict(labels, return_dtype=pl.String).alias("label"))


def gain(bundle: Bundle, metrics: pl.DataFrame) -> pl.DataFrame:
    """How much lower the latency is than under vLLM's own scheduler on the same requests: paired, per variant and rate.

    ``reduction`` is 1 - mean latency / mean latency of the stock scheduler, its mean over replications with a 95 %
    interval; negative when the policy is slower. ``paced_reduction`` is the same with latencies at pace 1, so that it
    matters less which of the two had the faster machine. The row without a share is over all rates of the variant.
    """
    stock = metrics.filter(pl.col("policy") == STOCK)
    on = ["variant", "share", "rate", "replication"]
    other = metrics.filter(pl.col("policy") != STOCK).join(stock, on=on, suffix="_stock", maintain_order="left")
    other = other.with_columns(
        reduction=1 - pl.col("mean_latency") / pl.col("mean_latency_stock"),
        paced_reduction=1 - pl.col("paced_latency") / pl.col("paced_latency_stock"),
        ttft_reduction=1 - pl.col("mean_ttft") / pl.col("mean_ttft_stock"),
    )
    rows = []
    for (variant, policy), part in other.group_by("variant", "policy", maintain_order=True):
        own = {"variant": variant, "policy": policy, "label": bundle.target.policies[policy].label}
        for (share, rate), point in part.group_by("share", "rate", maintain_order=True):
            rows.append(own | {"share": share, "rate": rate} | _intervals(point))
        means = part.group_by("replication").agg(pl.col(REDUCTIONS).mean()).sort("replication")
        rows.append(own | {"share": None, "rate": None} | _intervals(means))
    return pl.DataFrame(rows, infer_schema_length=None).sort("variant", "policy", "share", nulls_last=True)


def _intervals(part: pl.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"replications": part.height}
    for name in REDUCTIONS:
        interval = mean_interval(part[name])
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def steps(bundle: Bundle) -> pl.DataFrame:
    """What a step of each scheduler costs, by variant and policy, all its runs together.

    ``planning`` is the time (s) that the engine's scheduler takes to plan a batch, ours and vLLM's part of it together,
    median and mean; ``share`` is its mean over the mean time of an iteration, ``extra`` how much longer it is than
    under vLLM's own scheduler, in s. Batches differ between policies, and planning takes longer for larger ones.
    """
    where = pl.read_parquet(bundle.path("log.parquet"), columns=["run_id", "duration"])
    batches = pl.read_parquet(bundle.path("batches.parquet"), columns=["run_id", "planning", "decodes", "prefills"])
    both = pl.concat([where, batches.drop("run_id")], how="horizontal")
    name = pl.col("run_id").cast(pl.String).str.split(",")
    both = both.with_columns(variant=name.list.get(0), policy=name.list.get(1))
    rows = both.group_by("variant", "policy", maintain_order=True).agg(
        iterations=pl.len(),
        requests=(pl.col("decodes") + pl.col("prefills")).mean(),
        iteration=pl.col("duration").mean(),
        planning_median=pl.col("planning").median(),
        planning_mean=pl.col("planning").mean(),
        share=pl.col("planning").mean() / pl.col("duration").mean(),
    )
    stock = rows.filter(pl.col("policy") == STOCK).select("variant", stock="planning_median")
    rows = rows.join(stock, on="variant", how="left", maintain_order="left")
    return rows.with_columns(extra=pl.col("planning_median") - pl.col("stock")).drop("stock")
