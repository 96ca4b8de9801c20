"""E11, constant gaps at C = M*: FCFS against WAIT, and policies that do not know output lengths.

``fcfs_gap``: without slack and with the equilibrium memory M* as capacity, FCFS fills the memory with prompts, is
evicted and starts over, so its gap stays constant in zeta T while WAIT's vanishes.

``unknown_gap``: two types with equal prompts and different outputs. WAIT, which knows the type, has a vanishing gap; no
policy that does not know it can, at C = M*. A simulation cannot go through all such policies: it runs FCFS, FCFS with
memory reserved for the longest output, and Nested WAIT over a grid of thresholds, whose smallest gap is what counts.
"""

from __future__ import annotations

import polars as pl

from fluidwait.artifacts.step import Artifact
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.cases import run_cases
from fluidwait.studies.e11 import E11
from fluidwait.studies.scaling import recorded
from fluidwait.studies.study import table_product


def gaps(study: E11, table: str, scale: str) -> Artifact:
    """The cases of ``fcfs_gap`` or ``unknown_gap``: one row per case, thresholds and horizon."""
    keys = getattr(study, table)
    return table_product(
        lambda: summarised(study, run_cases(study, keys, scale)),
        identity=recorded(study, keys, scale) | {"table": table},
        module=__name__,
        rule="study_gaps",
    )


def summarised(study: E11, runs: pl.DataFrame) -> pl.DataFrame:
    """Columns case, label, policy, thresholds, zeta_t, iterations, gap (tokens/s, 95 % t interval), relative_gap (of
    throughput*, with its interval), latency, evictions (per request, of the whole run), peak (KV tokens), replications.
    """
    rows = []
    for (key, thresholds, horizon), group in runs.group_by(["case", "thresholds", "zeta_t"], maintain_order=True):
        gap = mean_interval(group["gap"].to_numpy())[:3]
        relative = [value / group["offered"][0] for value in gap]
        rows.append(
            {
                "case": key,
                "label": study.cases[key].label,
                "policy": study.cases[key].policy,
                "thresholds": thresholds,
                "zeta_t": horizon,
                "iterations": group["iterations"][0],
                **dict(zip(("gap", "gap_low", "gap_high"), gap, strict=True)),
                **dict(zip(("relative_gap", "relative_gap_low", "relative_gap_high"), relative, strict=True)),
                "latency": group["latency"].mean(),
                "evictions": group["evictions"].mean(),
                "peak": group["peak"].max(),
                "replications": len(group),
            }
        )
    return pl.DataFrame(rows)
