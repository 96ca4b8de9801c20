"""The record files: what is written is read back, bytes do not vary, and wrong files are told in one line."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fluidwait.artifacts import records
from fluidwait.artifacts.embedded import embedded_hash
from fluidwait.artifacts.records import ITERATIONS, REQUESTS, RecordWriter, iter_runs, read_metadata, read_table
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError

FILE_HASH, RUN_HASH = "a" * 64, "b" * 64


def requests(seed=0, n=50):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(0.05, n))
    return {
        "request_id": np.arange(n),
        "kind": rng.integers(0, 2, n),
        "arrival": arrival,
        "first_token": arrival + rng.random(n),
        "completion": arrival + 1 + rng.random(n),
        "prompt_tokens": np.full(n, 512),
        "output_tokens": rng.integers(1, 1000, n),
        "evictions": np.zeros(n, np.int64),
    }


def iterations(seed=0, n=80):
    rng = np.random.default_rng(seed)
    return {
        "start": np.cumsum(rng.random(n)),
        "duration": rng.random(n),
        "tokens": rng.integers(1, 512, n),
        "batch_size": rng.integers(1, 256, n),
        "kv_tokens": rng.integers(0, 137_000, n),
    }


def write(path, runs=3, schema=REQUESTS, make=requests):
    with RecordWriter(path, schema, engine="simulator", policy="wait_chunked", config_hash=FILE_HASH) as writer:
        for index in range(runs):
            writer.append(
                f"rate=12/rep={index}", make(index), config_hash=RUN_HASH, parameters={"rate": 12.0, "rep": index}
            )
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "wait.parquet")


def test_runs_are_read_back_as_written(path):
    runs = list(iter_runs(path))
    assert [run.run_id for run in runs] == ["rate=12/rep=0", "rate=12/rep=1", "rate=12/rep=2"]
    for index, run in enumerate(runs):
        assert run.config_hash == RUN_HASH
        assert run.parameters == {"rate": 12.0, "rep": index}
        expected = requests(index)
        assert list(run.columns) == list(expected)
        for name, values in run.columns.items():
            assert values.dtype == expected[name].dtype
            np.testing.assert_array_equal(values, expected[name])


def test_iterations_are_read_back_as_written(tmp_path):
    path = write(tmp_path / "i.parquet", schema=ITERATIONS, make=iterations)
    run = list(iter_runs(path, "iterations"))[2]
    assert (run.run_id, run.config_hash) == ("rate=12/rep=2", "")
    for name, values in iterations(2).items():
        np.testing.assert_array_equal(run.columns[name], values)


def test_schemas_say_units_in_fixed_types():
    assert {f.name: str(f.type) for f in REQUESTS} == {
        "run_id": "dictionary<values=string, indices=int32, ordered=0>",
        "config_hash": "dictionary<values=string, indices=int32, ordered=0>",
        "request_id": "int64",
        "kind": "int64",
        "arrival": "double",
        "first_token": "double",
        "completion": "double",
        "prompt_tokens": "int64",
        "output_tokens": "int64",
        "evictions": "int64",
    }
    assert {f.name: str(f.type) for f in ITERATIONS if f.name != "run_id"} == {
        "start": "double",
        "duration": "double",
        "tokens": "int64",
        "batch_size": "int64",
        "kv_tokens": "int64",
    }


def test_metadata(path):
    assert read_metadata(path) == {
        "format": "1",
        "record": "requests",
        "engine": "simulator",
        "policy": "wait_chunked",
        "config_hash": FILE_HASH,
        "runs": {f"rate=12/rep={index}": {"rate": 12.0, "rep": index} for index in range(3)},
    }
    assert embedded_hash(path) == FILE_HASH


def test_other_readers_see_plain_parquet(path):
    frame = pl.read_parquet(path)
    assert frame.columns == REQUESTS.names
    assert frame.height == 150
    assert frame["run_id"].cast(pl.String).unique(maintain_order=True).to_list()[2] == "rate=12/rep=2"
    assert read_table(path).equals(frame)


def test_bytes_do_not_vary(path, tmp_path):
    assert write(tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_records;"
        "test_records.write(Path(sys.argv[2]))"
    )
    arguments = [os.path.dirname(__file__), str(tmp_path / "other.parquet")]
    subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | {"PYTHONHASHSEED": "5"}, check=True)
    assert (tmp_path / "other.parquet").read_bytes() == path.read_bytes()


def test_one_value_changes_the_bytes(path, tmp_path):
    with RecordWriter(tmp_path / "x", REQUESTS, engine="simulator", policy="wait_chunked", config_hash=FILE_HASH) as w:
        for index in range(3):
            columns = requests(index)
            columns["completion"][-1] = np.nextafter(columns["completion"][-1], np.inf)
            w.append(f"rate=12/rep={index}", columns, config_hash=RUN_HASH, parameters={"rate": 12.0, "rep": index})
    assert (tmp_path / "x").read_bytes() != path.read_bytes()


def test_each_run_is_its_own_row_group(path):
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 3
    group = file.metadata.row_group(1)
    assert group.column(0).statistics.min == group.column(0).statistics.max == "rate=12/rep=1"
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_long_run_is_split_and_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROW_GROUP", 32)
    path = write(tmp_path / "i.parquet", schema=ITERATIONS, make=iterations)
    assert pq.ParquetFile(path).num_row_groups == 9
    for index, run in enumerate(iter_runs(path, "iterations")):
        np.testing.assert_array_equal(run.columns["start"], iterations(index)["start"])


def test_lost_request_is_recorded_as_nan(tmp_path):
    columns = requests()
    columns["completion"][3] = np.nan
    with RecordWriter(tmp_path / "x.parquet", REQUESTS, engine="vllm", policy="wait", config_hash=FILE_HASH) as writer:
        writer.append("a", columns, config_hash=RUN_HASH)
    (run,) = iter_runs(tmp_path / "x.parquet")
    assert np.isnan(run.columns["completion"]).nonzero()[0].tolist() == [3]


def test_some_runs(path):
    assert [run.run_id for run in iter_runs(path, runs=["rate=12/rep=2"])] == ["rate=12/rep=2"]
    with pytest.raises(ConfigError, match=r"no run 'rate=12/rep=7' \(did you mean 'rate=12/rep="):
        list(iter_runs(path, runs=["rate=12/rep=7"]))


def test_as_an_artifact(tmp_path):
    results = tmp_path / "results"

    def writer(path, key):
        with RecordWriter(path, REQUESTS, engine="simulator", policy="wait", config_hash=key) as out:
            out.append("a", requests(), config_hash=RUN_HASH)

    key = write_artifact(results / "x.parquet", writer, config={"seed": 0}, rule="run", root=tmp_path)
    assert read_metadata(results / "x.parquet")["config_hash"] == key
    assert verify(results, tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("evictions"), "missing or unknown columns: evictions"),
        (lambda c: c.update(ttft=c["arrival"]), "missing or unknown columns: ttft"),
        (lambda c: c.update(arrival=c["arrival"][:-1]), "different lengths"),
        (lambda c: c.update(output_tokens=c["output_tokens"] * 1.0), "output_tokens must be one row of integers"),
        (lambda c: c.update(arrival=c["arrival"].astype(str)), "arrival must be one row of numbers"),
        (lambda c: c.update(arrival=c["arrival"].reshape(-1, 1)), "arrival must be one row of numbers"),
        (lambda c: c["request_id"].__setitem__(0, 1), "request ids repeat"),
        (lambda c: c.update({name: values[:0] for name, values in c.items()}), "has no rows"),
    ],
)
def test_wrong_columns(tmp_path, change, message):
    columns = requests()
    change(columns)
    with (
        RecordWriter(tmp_path / "x.parquet", REQUESTS, engine="e", policy="p", config_hash=FILE_HASH) as writer,
        pytest.raises(ValueError, match=message),
    ):
        writer.append("a", columns, config_hash=RUN_HASH)


def test_run_is_written_once_and_with_its_hash(tmp_path):
    with RecordWriter(tmp_path / "x.parquet", REQUESTS, engine="e", policy="p", config_hash=FILE_HASH) as writer:
        writer.append("a", requests(), config_hash=RUN_HASH)
        with pytest.raises(ValueError, match="run 'a' was already written"):
            writer.append("a", requests(), config_hash=RUN_HASH)
        with pytest.raises(ValueError, match="a configuration hash is needed"):
            writer.append("b", requests())


def test_interrupted_file_is_not_read(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        RecordWriter(tmp_path / "x.parquet", REQUESTS, engine="e", policy="p", config_hash=FILE_HASH) as writer,
    ):
        writer.append("a", requests(), config_hash=RUN_HASH)
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match="not a record of fluidwait runs"):
        read_metadata(tmp_path / "x.parquet")


def rewritten(path, change=lambda table: table, **metadata):
    table = change(pq.read_table(path))
    stored = {k: v for k, v in pq.read_metadata(path).metadata.items() if k != b"ARROW:schema"}
    pq.write_table(table.replace_schema_metadata(stored | {k.encode(): v.encode() for k, v in metadata.items()}), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["evictions"]), "column evictions is missing"),
        (lambda t: t.append_column("ttft", t["arrival"]), "unknown column ttft"),
        (lambda t: t.select(t.column_names[::-1]), "columns are not in the order of the schema"),
        (
            lambda t: t.set_column(
                9, pa.field("evictions", pa.int32(), nullable=False), t["evictions"].cast(pa.int32())
            ),
            "column evictions is int32, expected int64",
        ),
    ],
)
def test_file_of_another_schema(path, change, message):
    rewritten(path, change)
    with pytest.raises(ConfigError, match=rf"wait\.parquet: {message}"):
        list(iter_runs(path))


def test_file_of_another_format(path):
    rewritten(path, format="0")
    with pytest.raises(ConfigError, match="records of format 0, this version reads format 1"):
        read_metadata(path)


def test_requests_are_not_iterations(path):
    with pytest.raises(ConfigError, match=r"wait\.parquet: holds requests, expected iterations"):
        list(iter_runs(path, "iterations"))


def test_file_that_is_missing_or_not_parquet(path):
    with pytest.raises(ConfigError, match=r"wiat\.parquet: no such file \(did you mean 'wait\.parquet'\?\)"):
        read_metadata(path.with_name("wiat.parquet"))
    path.write_text("run_id,arrival\n")
    with pytest.raises(ConfigError, match="not a readable Parquet file"):
        read_table(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ConfigError, match="not a record of fluidwait runs"):
        read_table(path)


def test_size_of_a_sweep(tmp_path):
    """One policy of one experiment: 100 runs of 5,000 requests stay below 20 MB."""
    path = tmp_path / "sweep.parquet"
    with RecordWriter(path, REQUESTS, engine="simulator", policy="wait", config_hash=FILE_HASH) as writer:
        for index in range(100):
            writer.append(f"run {index}", requests(index, 5000), config_hash=RUN_HASH)
    assert path.stat().st_size < 20e6
    assert sum(len(run.columns["arrival"]) for run in iter_runs(path)) == 500_000
