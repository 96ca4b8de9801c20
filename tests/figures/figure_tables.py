"""Small result tables of one experiment, as the workflow writes them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

LABELS = {"wait_fluid": "WAIT, fluid rule", "sarathi": "Sarathi", "vllm_v0": "vLLM (2023)"}
RATES = (12.0, 13.0, 14.0, 15.0)
REPLICATIONS = 4
# Seconds at each rate; the last is overload.
LATENCY = {
    "wait_fluid": (0.39, 0.42, 0.45, 3.0),
    "sarathi": (0.41, 0.44, 0.49, 8.0),
    "vllm_v0": (0.45, 0.5, 2.0, 30.0),
}
STABLE = {"wait_fluid": 14.0, "sarathi": 14.0, "vllm_v0": 13.0}
STAR_COLUMNS = ("lambda_star", "lambda_star_low", "lambda_star_high")
STARS = {"wait_fluid": (14.5, 14.3, 14.7), "sarathi": (14.25, 14.0, 14.5), "vllm_v0": (13.4, 13.2, 13.6)}


def write_summary(folder, replications):
    rows = []
    for key in reversed(LABELS):  # not the order of the labels
        for rate, latency in zip(RATES, LATENCY[key], strict=True):
            rate_out = min(rate, STABLE[key] + 0.3)
            row = {"policy": key, "label": LABELS[key], "rate": rate, "replications": replications, "requests": 2000.0}
            for metric, mean in (("mean_latency", latency), ("completion_rate", rate_out)):
                half = 0.05 * mean if replications > 1 else float("nan")
                row |= {metric: mean, f"{metric}_low": mean - half, f"{metric}_high": mean + half}
            rows.append(row)
    pl.DataFrame(rows).write_csv(folder / "summary.csv")


def write_metrics(folder, replications, name="replication"):
    factor = 1.0 + 0.1 * np.arange(replications)
    for key in LABELS:
        rows = [
            {"run_id": f"rate={rate:g},rep={i}", "rate": rate, name: i, "mean_latency": latency * factor[i]}
            for rate, latency in zip(RATES, LATENCY[key], strict=True)
            for i in range(replications)
        ]
        pl.DataFrame(rows).write_csv(folder / "metrics" / f"{key}.csv")


def write_thresholds(folder, d0=0.0106, d1=4e-7, work=28_000.0):
    """The table of the linear model with these constants; no equilibrium where the load reaches 1."""
    rows = []
    for rate in (20.0, 40.0, 60.0, 80.0, 100.0):
        load = rate * work * d1
        seconds = d0 / (1.0 - load) if load < 1 else None
        memory = rate * work * seconds if seconds else None
        calibrated = 1.5 * memory if rate < 50 else None
        rows.append({"rate": rate, "load": load, "iteration_time": seconds, "memory": memory})
        rows[-1]["calibrated_memory"] = calibrated
    pl.DataFrame(rows).write_csv(folder / "thresholds.csv")
    edge = {"rate": 44.0, "memory": 90_000.0, "binding": "time"}
    capacity = 137_000.0
    crossing = 1.0 / (work * (d1 + d0 / capacity))
    summary = {"capacity": capacity, "boundary_rate": crossing, "calibrated_boundary": edge, "rates": rows}
    summary |= {"fluid_bound": edge["rate"]}
    (folder / "thresholds.json").write_text(json.dumps(summary))


def write_reference(folder):
    """Ours by variant at three rates, two of them one run each; only WAIT has runs with its gate on."""
    rows = []
    for policy, published in (("sarathi", (0.4, 0.45, 0.5)), ("wait", (0.3, 0.35, 0.4))):
        for rate, known in zip(RATES, published, strict=False):
            row = {"policy": policy, "rate": rate, "published": known, "stream": 1.04 * known, "replayed": 1.01 * known}
            for name, factor in (("exact", 0.98), ("truncated", 1.03), ("gated", 3.0)):
                if name != "gated" or policy == "wait":
                    row |= {name: factor * known, f"{name}_low": 0.9 * factor * known, f"{name}_high": factor * known}
            rows.append(row)
    pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / "reference.csv")


def write_traces(folder):
    """Memory against time at two rates; only Sarathi evicts, twice at 14 requests/s, and ends last."""
    for place, key in enumerate(LABELS):
        rows = [
            {"rate": rate, "time": float(time), "kv_tokens": 100 * time, "share": 0.1 * time, "evictions": 0}
            for rate in (12.0, 14.0)
            for time in range(1, 9 + place % 2)
        ]
        if key == "sarathi":
            for row in rows:
                row["evictions"] = (row["time"] >= 4) + (row["time"] >= 6) if row["rate"] == 14.0 else 0
        pl.DataFrame(rows).write_csv(folder / "trace" / f"{key}.csv")
