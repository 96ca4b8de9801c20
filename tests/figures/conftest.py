from __future__ import annotations

import polars as pl
import pytest
from figure_tables import (
    LABELS,
    REPLICATIONS,
    STABLE,
    STAR_COLUMNS,
    STARS,
    write_metrics,
    write_reference,
    write_summary,
    write_thresholds,
    write_traces,
)


@pytest.fixture
def experiment():
    return {"id": "e1", "title": "Single type", "labels": dict(LABELS)}


@pytest.fixture
def results(tmp_path):
    """results/quick/e1 with every table; latencies of a replication are the mean times a factor common to policies."""
    folder = tmp_path / "results" / "quick" / "e1"
    for name in ("metrics", "trace"):
        (folder / name).mkdir(parents=True)
    write_summary(folder, replications=REPLICATIONS)
    write_metrics(folder, replications=REPLICATIONS)
    rows = [
        {"policy": key, "label": LABELS[key], "grid_lambda_star": STABLE[key], "predicted": predicted}
        | dict(zip(STAR_COLUMNS, STARS[key], strict=True))
        for key, predicted in (("wait_fluid", 14.6), ("sarathi", 14.1), ("vllm_v0", None))
    ]
    pl.DataFrame(rows, infer_schema_length=None).write_csv(folder / "stability.csv")
    write_thresholds(folder)
    write_reference(folder)
    write_traces(folder)
    audits = []
    for key, difference in (("wait_fluid", 3e-13), ("sarathi", 0.0)):
        times = {"max_abs_first_token": [0.0, difference, 0.0], "max_abs_completion": [0.0, 0.0, difference / 2]}
        audits.append(pl.DataFrame({"policy": [key] * 3, "rate": [12.0, 12.0, 14.0], "replication": [0, 1, 0]} | times))
    pl.concat(audits).write_csv(folder / "audit.csv")
    return folder
