"""The files of a bundle, written from what a recording has measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.records import ITERATIONS, REQUESTS, RecordWriter
from fluidwait.base.files import write_text
from fluidwait.device.iteration_times import SUMS
from fluidwait.engines.vllm import calibrate
from fluidwait.real.agenda import Point


def write_runs(
    folder: Path, runs: list[tuple[Point, dict[str, Any]]], keys: list[str], options: dict[str, str]
) -> None:
    """Every request and every iteration of the runs.

    Args:
        keys: configuration hash of each run.
        options: engine, policy and hash of the files.
    """
    sent, batches = [], []
    with (
        RecordWriter(folder / "requests.parquet", REQUESTS, **options) as requests,
        RecordWriter(folder / "log.parquet", ITERATIONS, **options) as log,
    ):
        for (point, data), key in zip(runs, keys, strict=True):
            columns = {name: np.array(data[name]) for name in REQUESTS.names if name in data}
            parameters = point._asdict() | {f"drift_{name}": value for name, value in data["drift"].items()}
            rows = np.array(data["log"])
            requests.append(point.name, columns, config_hash=key, parameters=parameters)
            log.append(point.name, _iterations(rows), parameters=point._asdict())
            sent.append(_named(point.name, {"request_id": columns["request_id"], "sent": data["sent"]}))
            batches.append(_named(point.name, _batches(rows)))
    for name, tables in (("sent.parquet", sent), ("batches.parquet", batches)):
        _write_parquet(folder / name, tables)


def write_paces(folder: Path, paces: dict[str, list]) -> None:
    """The samples of the meter, by calibration or run."""
    _write_parquet(folder / "pace.parquet", [_named(name, _samples(pace)) for name, pace in paces.items()])


def write_csv(path: Path, table: pl.DataFrame) -> None:
    write_text(path, table.write_csv())


def _batches(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What each iteration computed: the sums of ``iteration_time``, and the scheduler's own time (s)."""
    columns = dict(zip(calibrate.COLUMNS, rows.T, strict=True))
    return {name: columns[name].astype(np.int64) for name in SUMS} | {"planning": columns["planning"]}


def _named(run_id: str, columns: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(columns).insert_column(0, pl.lit(run_id).alias("run_id"))


def _samples(pace: list) -> dict[str, np.ndarray]:
    return dict(zip(("time", "seconds"), np.reshape(pace, (-1, 2)).T, strict=True))


def _write_parquet(path: Path, tables: list[pl.DataFrame]) -> None:
    pl.concat(tables).write_parquet(path, compression="zstd")


def _iterations(rows: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the iterations schema from rows of the engine's log."""
    columns = dict(zip(calibrate.COLUMNS, rows.T, strict=True))
    whole = {
        "tokens": columns["tokens"],
        "batch_size": columns["prefills"] + columns["decodes"],
        "kv_tokens": columns["resident_kv"],
    }
    times = {"start": columns["begin"], "duration": columns["seconds"]}
    return times | {name: column.astype(np.int64) for name, column in whole.items()}
