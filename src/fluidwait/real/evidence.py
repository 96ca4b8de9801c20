"""What the claims about a device are judged by."""

from __future__ import annotations

import polars as pl

from fluidwait.real.bundle import Bundle
from fluidwait.real.fidelity import LINEAR, generations, scores
from fluidwait.real.gains import runs
from fluidwait.real.target import AUTO, STOCK, Target


def evidence(bundle: Bundle) -> dict[str, pl.DataFrame]:
    """Small tables for the claims about a device (``docs/claims.md``), by file name; they lie in the bundle itself.

    ``time_model.csv``: ``mape`` and ``r_squared`` of the linear model on the generations that it was fitted to, and
    ``error_256``, its error at a batch of 256, both errors in %. ``single.csv`` and ``lmsys.csv``: by ``rate``, mean
    latency (s, mean over the replications) of our policy, ``wait``, and of vLLM's scheduler, ``baseline``. Ours is the
    paper's policy: the first of the variant ``paper_single`` (or ``single``) that is neither vLLM's nor the auto mode.
    """
    whole = generations(bundle)
    found = scores(*(whole.filter(~pl.col("extrapolated"))[c].to_numpy() for c in ("measured", LINEAR)))
    beyond = whole.filter(pl.col("batch") == 256)[f"{LINEAR}_error"].abs()
    row = {"mape": 100 * found["mape"], "r_squared": found["r2"]}
    tables = {"time_model.csv": pl.DataFrame([row | {"error_256": 100 * beyond[0] if len(beyond) else None}])}
    if bundle.has_runs():
        latency = runs(bundle).group_by("variant", "rate", "policy").agg(pl.col("mean_latency").mean())
        for name in ("single", "lmsys"):
            variant, policy = _paper_policy(bundle.target, name)
            part = latency.filter(pl.col("variant") == variant)
            ours, stock = (part.filter(pl.col("policy") == key) for key in (policy, STOCK))
            both = ours.join(stock, on="rate", suffix="_stock").sort("rate")
            if both.height:
                tables[f"{name}.csv"] = both.select("rate", wait="mean_latency", baseline="mean_latency_stock")
    return tables


def _paper_policy(target: Target, name: str) -> tuple[str, str]:
    """Variant and policy by which the claims about a workload are judged: the paper's, not the auto mode."""
    for variant in (f"paper_{name}", name):
        named = target.variants[variant].policies if variant in target.variants else []
        for key in named:
            if target.policies[key].use not in (STOCK, AUTO):
                return variant, key
    return name, ""
