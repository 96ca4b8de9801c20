"""A project with the evidence of every claim, small and made up, on the grids that its experiments ask for."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import polars as pl

from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.claims.claim import load_claims
from fluidwait.claims.select import files
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.stats.metrics import Metrics

CHECKOUT = Path(__file__).resolve().parents[2]
REPLICATIONS = 3

# Mean latency of a policy is this times the square of the rate; replications differ by 1 %.
LATENCY = {"wait": 1.0, "sarathi": 1.5, "vllm_v0": 2.0}


def write(path: Path, table: pl.DataFrame, root: Path, config: dict | None = None, inputs=()) -> None:
    write_artifact(
        path, lambda out, _: table.write_csv(out), config=config or {}, inputs=inputs, rule="made up", root=root
    )


def make_project(root: Path, scale: str = "paper") -> Path:
    """Configuration and data that ship, and every artifact that the claims name."""
    for name in ("config", "data", "paper"):
        shutil.copytree(CHECKOUT / name, root / name)
    for path in files(load_claims(root / "paper" / "claims.yaml"), scale):
        if path.startswith("results/"):
            make(root, Path(path), scale)
    return root


def make(root: Path, path: Path, scale: str) -> None:
    experiment, kind = path.parts[2], path.parts[3]
    if kind == "metrics":
        records = root / "results" / scale / experiment / "records" / f"{path.stem}.parquet"
        runs = metrics(load_experiment(root / "config" / "experiments" / f"{experiment}.yaml"), path.stem, scale)
        config = {"experiment": experiment}
        write_artifact(records, lambda out, _: runs.write_parquet(out), config=config, rule="made up", root=root)
        write(root / path, runs, root, inputs=[records])
    elif kind == "boundary":
        table = boundary(load_experiment(root / "config" / "experiments" / f"{experiment}.yaml"), path.stem)
        write(root / path, table, root, {"experiment": experiment})
    else:
        write(root / path, STUDIES[f"{experiment}/{kind}"](), root)


def metrics(experiment: Experiment, policy: str, scale: str) -> pl.DataFrame:
    """One row per run, on the experiment's own rates and horizons."""
    experiment.entry(policy)  # an unknown policy is an error
    sizes = experiment.scale(scale)
    horizons = getattr(experiment, "horizons_at", lambda scale: [sizes.requests])(scale)
    rows = []
    for rate, n, replication in itertools.product(experiment.rates_at(scale), horizons, range(REPLICATIONS)):
        row = dict.fromkeys(Metrics._fields, 1.0) | {"requests": n, "evictions": 0}
        latency = LATENCY.get(policy.removesuffix("_tuned"), 1.2) * rate**2 * (1 + 0.01 * replication)
        rows.append({"rate": rate, "replication": replication} | row | {"mean_latency": latency})
    return pl.DataFrame(rows)


def boundary(experiment: Experiment, policy: str) -> pl.DataFrame:
    experiment.entry(policy)
    assert experiment.boundary is not None, f"{experiment.id} has no searched boundaries"
    stars = 25 - LATENCY[policy] + 0.1 * np.arange(REPLICATIONS)
    return pl.DataFrame({"replication": range(REPLICATIONS), "lambda_star": stars})


def thresholds() -> pl.DataFrame:
    rows = [{"rate": r, "load": r / 88, "memory": 700.0 * r / (1 - r / 88)} for r in (50.0, 60.0, 70.0, 80.0)]
    return pl.DataFrame(rows).with_columns(memory_share=pl.col("memory") / 137_000)


def memory() -> pl.DataFrame:
    rows = []
    for rate, horizon, delta in itertools.product((50.0, 500.0), (20.0, 200.0, 2000.0), (0.1, 1e-3, 1e-5)):
        for segments in (1, 2, 5, 10, 50):
            base, queue, buffer = 1e4 * rate / segments**0.5, 10.0 * segments, segments * np.log(horizon / delta)
            total = base + queue * rate + buffer
            row = {"rate": rate, "horizon": horizon, "delta": delta, "segments": segments, "base": base}
            rows.append(row | {"boundary": queue, "buffer": buffer, "total": total})
    return pl.DataFrame(rows)


def exponents() -> pl.DataFrame:
    row = {"case": "wait", "quantity": "gap", "exponent": -0.5, "low": -0.52, "high": -0.48, "expected": -0.5}
    return pl.DataFrame([row | {"decades": 3.0, "replications": 40}])


def overflow() -> pl.DataFrame:
    return pl.DataFrame([{"delta": 0.1, "frequency": 0.01, "low": 0.0, "high": 0.05}])


def gap() -> pl.DataFrame:
    rows = [("fcfs", 1e2, 0.2), ("fcfs", 1e3, 0.2), ("wait", 1e2, 0.1), ("wait", 1e3, 0.03)]
    columns = {"policy": pl.String, "zeta_t": pl.Float64, "relative_gap": pl.Float64}
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(relative_gap_low=pl.col("relative_gap") - 0.01)


def toy() -> pl.DataFrame:
    cases = itertools.product(("balanced", "unbalanced"), ("fcfs", "wait"))
    return pl.DataFrame([{"start": s, "policy": p, "completions": 4.0 if s == "balanced" else 3.2} for s, p in cases])


STUDIES = {
    "e5/thresholds.csv": thresholds,
    "e6/memory.csv": memory,
    "e11/exponents.csv": exponents,
    "e11/overflow.csv": overflow,
    "e11/fcfs_gap.csv": gap,
    "e11/unknown_gap.csv": gap,
    "e11/toy.csv": toy,
}
