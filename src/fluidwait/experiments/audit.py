"""Vidur as auditor: a random sample of an experiment's runs is repeated in real Vidur, request by request."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl

from fluidwait.config import FluidwaitError
from fluidwait.engines.simulator import simulate
from fluidwait.engines.vidur import VERSION, native_policies, simulate_vidur
from fluidwait.experiments.experiment import Experiment, resolve
from fluidwait.experiments.sweep import code_of, identity, winners
from fluidwait.provenance import imported_modules, write_artifact
from fluidwait.workload import input_files

TOLERANCE = 1e-9
"""Largest difference in s between the engines that passes; both do the same arithmetic, so it is 0 as a rule."""


SCHEMA = {
    "rate": float,
    "replication": int,
    "requests": int,
    "scheduler": str,
    "evictions": int,
    "max_abs_first_token": float,
    "max_abs_completion": float,
}


class AuditError(FluidwaitError):
    """The simulator and Vidur disagree."""


def sample(experiment: Experiment, key: str, scale: str) -> list[tuple[float, int, int]]:
    """The (rate, requests, replication) to audit: at least ``audit_share`` of the runs, drawn once and for all."""
    replications = range(experiment.scale(scale).replications)
    points = list(itertools.product(experiment.rates_at(scale), experiment.horizons_at(scale), replications))
    audited = experiment.scale(scale).audit_requests > 0
    count = math.ceil(experiment.audit_share * len(points)) if audited else 0
    position = list(experiment.policies).index(key)
    random = np.random.default_rng([experiment.seed_at(scale), position])
    return [points[i] for i in sorted(random.choice(len(points), size=count, replace=False))]


def audit(experiment: Experiment, key: str, scale: str, out: Path, tuning: Path | None = None) -> None:
    """Repeat the sampled runs in Vidur, with Vidur's own scheduler where it has one, and compare every request.

    A run longer than ``audit_requests`` is compared on its first requests, simulated anew by both engines.

    Raises:
        AuditError: first tokens or completions differ by more than :data:`TOLERANCE` seconds, or evictions differ.
    """
    setting, chosen = resolve(experiment), winners(tuning)
    most = experiment.scale(scale).audit_requests

    def compare(rate: float, horizon: int, replication: int) -> dict:
        n = min(horizon, most)
        policy = setting.policy(key, chosen.get(rate))
        knobs = policy.prepare(setting.context(rate))
        requests = setting.requests(n, rate, experiment.seed_at(scale), replication)
        ours = simulate(requests, policy, knobs, setting.time_model, setting.semantics)
        native = policy.name in native_policies(setting.semantics)
        theirs = simulate_vidur(requests, policy, knobs, setting.time_model, setting.semantics, native=native)
        row = {
            "rate": rate,
            "replication": replication,
            "requests": n,
            "scheduler": "Vidur's" if native else "ours in Vidur",
            "evictions": int(theirs.evictions.sum()),
            "max_abs_first_token": float(np.abs(ours.first_token - theirs.first_token).max()),
            "max_abs_completion": float(np.abs(ours.completion - theirs.completion).max()),
        }
        worst = max(row["max_abs_first_token"], row["max_abs_completion"])
        if not worst <= TOLERANCE or not np.array_equal(ours.evictions, theirs.evictions):
            raise AuditError(
                f"experiment {experiment.id}, {key}, rate {rate:g}, replication {replication}: "
                f"simulator and Vidur differ by {worst:.3g} s"
            )
        return row

    write_artifact(
        out,
        lambda path, _: pl.DataFrame(
            [compare(*point) for point in sample(experiment, key, scale)], schema=SCHEMA
        ).write_csv(path),
        config=identity(setting, key, scale)
        | {"engine": f"vidur {VERSION}", "audit_requests": most, "audit_share": experiment.audit_share},
        inputs=[*input_files(setting.workload), *([tuning] if tuning else [])],
        code=sorted({*code_of(setting, key), *imported_modules(__name__)}),
        rule="audit",
    )
