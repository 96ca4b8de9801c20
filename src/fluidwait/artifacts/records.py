"""Records: the one Parquet schema in which the runs of every engine end.

A file holds many runs: one policy of one experiment, all rates and replications. There are two kinds of file. In a
*requests* file a row is a request, in an *iterations* file a row is one batch of the engine. Rows of a run are
consecutive, and every run starts a row group, so one run is read without the others and memory stays bounded by the
longest run. The file's metadata says which engine and policy made it and what the parameters of each run are.

Writing the same runs twice gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fluidwait.artifacts.canonical import canonical_json
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import is_file

FORMAT = "1"
"""Version of the schemas; a reader accepts only its own."""

ROW_GROUP = 1 << 20
"""Most rows of a row group; only long iteration logs reach it."""

_ID = pa.dictionary(pa.int32(), pa.string())


def _schema(integers: Collection[str], columns: Iterable[str]) -> pa.Schema:
    kinds = {"run_id": _ID, "config_hash": _ID, **dict.fromkeys(integers, pa.int64())}
    return pa.schema([pa.field(name, kinds.get(name, pa.float64()), nullable=False) for name in columns])


REQUESTS = _schema(
    ("request_id", "kind", "prompt_tokens", "output_tokens", "evictions"),
    (
        "run_id",
        "config_hash",  # of this run
        "request_id",  # unique within the run
        "kind",  # index of the request's type in its workload
        "arrival",  # s
        "first_token",  # s, end of the iteration that made the first output token; NaN when there was none
        "completion",  # s, end of the iteration that made the last output token; NaN when it never completed
        "prompt_tokens",
        "output_tokens",
        "evictions",  # times the request lost its KV cache
    ),
)
"""Schema of a requests file: one row per request."""

ITERATIONS = _schema(
    ("tokens", "batch_size", "kv_tokens"),
    (
        "run_id",
        "start",  # s
        "duration",  # s
        "tokens",  # computed in this iteration, prefill and decode together
        "batch_size",  # requests in the batch
        "kv_tokens",  # held by all residents at the end of the iteration
    ),
)
"""Schema of an iterations file: one row per iteration of the engine."""

_NAMES = {"requests": REQUESTS, "iterations": ITERATIONS}


class Run(NamedTuple):
    """One run of a file.

    Attributes:
        run_id: its name, unique in the file.
        config_hash: of the run; empty in an iterations file.
        parameters: what tells it from the other runs of the file, such as rate and replication.
        columns: the other columns as NumPy arrays of equal length, int64 or float64.
    """

    run_id: str
    config_hash: str
    parameters: dict[str, Any]
    columns: dict[str, np.ndarray]


class RecordWriter:
    """Streams runs into one Parquet file; a context manager.

    Args:
        path: file to write. Give a temporary path (see :func:`fluidwait.artifacts.sidecar.write_artifact`): a writer
            that is interrupted leaves an incomplete file.
        schema: :data:`REQUESTS` or :data:`ITERATIONS`.
        engine, policy: names, kept as file metadata.
        config_hash: configuration hash of the whole file, kept as file metadata.
    """

    def __init__(self, path: str | Path, schema: pa.Schema, *, engine: str, policy: str, config_hash: str) -> None:
        self._schema = schema
        self._runs: dict[str, dict[str, Any]] = {}
        metadata = {"format": FORMAT, "record": _name_of(schema), "engine": engine, "policy": policy}
        self._writer = pq.ParquetWriter(
            path,
            schema.with_metadata({**metadata, "config_hash": config_hash}),
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in ("run_id", "config_hash") if name in schema.names],
            version="2.6",
            data_page_version="1.0",
        )

    def append(
        self,
        run_id: str,
        columns: Mapping[str, np.ndarray],
        *,
        config_hash: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one run.

        Args:
            run_id: unique in the file.
            columns: every column of the schema except ``run_id`` and ``config_hash``; arrays of equal length.
            config_hash: of this run; needed in a requests file.
            parameters: what tells the run from the others, such as ``{"rate": 12.0, "replication": 3}``.

        Raises:
            ValueError: a run of that name was written before, it has no rows, columns are missing or unknown, lengths
                differ, an integer column holds something else, or request ids repeat.
        """
        if run_id in self._runs:
            raise ValueError(f"run '{run_id}' was already written")
        table = self._table(run_id, columns, config_hash)
        self._runs[run_id] = dict(parameters or {})
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def close(self) -> None:
        """Write the metadata of the runs and close the file."""
        if self._writer.is_open:
            self._writer.add_key_value_metadata({"runs": canonical_json(self._runs)})
        self._writer.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._writer.close()

    def _table(self, run_id: str, columns: Mapping[str, np.ndarray], config_hash: str) -> pa.Table:
        names = [name for name in self._schema.names if name not in ("run_id", "config_hash")]
        wrong = sorted(set(names) ^ set(columns))
        if wrong:
            raise ValueError(f"run '{run_id}': missing or unknown columns: {', '.join(wrong)}")
        lengths = {name: len(columns[name]) for name in names}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"run '{run_id}': columns of different lengths: {lengths}")
        rows = lengths[names[0]]
        if rows == 0:
            raise ValueError(f"run '{run_id}': has no rows")
        arrays = {name: _array(run_id, name, columns[name], self._schema.field(name).type) for name in names}
        if "request_id" in names and len(np.unique(columns["request_id"])) != rows:
            raise ValueError(f"run '{run_id}': request ids repeat")
        arrays["run_id"] = _constant(run_id, rows)
        if "config_hash" in self._schema.names:
            if not config_hash:
                raise ValueError(f"run '{run_id}': a configuration hash is needed")
            arrays["config_hash"] = _constant(config_hash, rows)
        return pa.Table.from_arrays([arrays[name] for name in self._schema.names], schema=self._writer.schema)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Metadata of a record file: ``record``, ``engine``, ``policy``, ``config_hash``, ``runs`` (parameters by run id).

    Raises:
        ConfigError: the file is missing, not Parquet, not a record of this format, or of another schema.
    """
    file = _open(path)
    with file:
        return _metadata(file)


def iter_runs(path: str | Path, record: str = "requests", runs: Iterable[str] | None = None) -> Iterator[Run]:
    """Yield the runs of a file one after another, in the order in which they were written.

    Args:
        path: the file.
        record: ``requests`` or ``iterations``: what the file must hold.
        runs: only these run ids.

    Raises:
        ConfigError: as in :func:`read_metadata`, or the file is the other kind, or has no run of such a name.
    """
    file = _open(path, record)
    with file:
        metadata = _metadata(file)
        wanted = set(metadata["runs"]) if runs is None else set(runs)
        for unknown in sorted(wanted - set(metadata["runs"])):
            raise ConfigError(f"{path}: no run '{unknown}'{nearest(unknown, list(metadata['runs']))}")
        for run_id, groups in _groups_of_runs(file).items():
            if run_id in wanted:
                yield _run(file.read_row_groups(groups), run_id, metadata["runs"][run_id])


def read_table(path: str | Path, record: str = "requests") -> pl.DataFrame:
    """All rows of a file as one Polars frame, columns as in the schema.

    Raises:
        ConfigError: as in :func:`iter_runs`.
    """
    file = _open(path, record)
    with file:
        return pl.DataFrame(pl.from_arrow(file.read()))


def _name_of(schema: pa.Schema) -> str:
    return next(name for name, known in _NAMES.items() if known.equals(schema))


def _constant(text: str, rows: int) -> pa.Array:
    data = text.encode()  # by hand for the same reason as in _plain
    ends = np.array([0, len(data)], dtype=np.int32)
    once = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)])
    return pa.DictionaryArray.from_arrays(_plain(np.zeros(rows, np.int32), pa.int32()), once)


def _array(run_id: str, name: str, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    values = np.asarray(values)
    integer = pa.types.is_integer(kind)
    if values.ndim != 1 or values.dtype.kind not in ("iu" if integer else "iuf"):
        expected = "integers" if integer else "numbers"
        raise ValueError(f"run '{run_id}': column {name} must be one row of {expected}, found {values.dtype}")
    return _plain(values.astype(np.int64 if integer else np.float64), kind)


def _plain(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Without ``pa.array``, which would import pandas only to learn that these are not its types."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _open(path: str | Path, record: str | None = None) -> pq.ParquetFile:
    path = Path(path)
    if not is_file(path):
        near = nearest(path.name, [p.name for p in path.parent.glob("*.parquet")]) if path.parent.is_dir() else ""
        raise ConfigError(f"{path}: no such file{near}")
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):
        raise ConfigError(f"{path}: not a readable Parquet file") from None
    try:
        _check(file, path, record)
    except ConfigError:
        file.close()
        raise
    return file


def _check(file: pq.ParquetFile, path: Path, record: str | None) -> None:
    stored = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items() if k != b"ARROW:schema"}
    name = stored.get("record")
    if name not in _NAMES or "runs" not in stored:
        raise ConfigError(f"{path}: not a record of fluidwait runs")
    if stored.get("format") != FORMAT:
        raise ConfigError(f"{path}: records of format {stored.get('format')}, this version reads format {FORMAT}")
    if record is not None and name != record:
        raise ConfigError(f"{path}: holds {name}, expected {record}")
    found, expected = file.schema_arrow, _NAMES[name]
    if not found.equals(expected):
        raise ConfigError(f"{path}: {_difference(found, expected)}")


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for field in expected:
        if field.name not in found.names:
            return f"column {field.name} is missing"
        if not found.field(field.name).equals(field):
            return f"column {field.name} is {found.field(field.name).type}, expected {field.type}"
    extra = [name for name in found.names if name not in expected.names]
    return f"unknown column {extra[0]}" if extra else "columns are not in the order of the schema"


def _metadata(file: pq.ParquetFile) -> dict[str, Any]:
    stored = {k.decode(): v.decode() for k, v in file.metadata.metadata.items() if k != b"ARROW:schema"}
    return {**stored, "runs": json.loads(stored["runs"])}


def _groups_of_runs(file: pq.ParquetFile) -> dict[str, list[int]]:
    """Row groups of each run: a group holds one run only, so its statistics name it."""
    groups: dict[str, list[int]] = {}
    for index in range(file.num_row_groups):
        groups.setdefault(file.metadata.row_group(index).column(0).statistics.min, []).append(index)
    return groups


def _run(table: pa.Table, run_id: str, parameters: dict[str, Any]) -> Run:
    hashes = table["config_hash"].unique().to_pylist() if "config_hash" in table.column_names else [""]
    names = [name for name in table.column_names if name not in ("run_id", "config_hash")]
    columns = pl.from_arrow(table.select(names))  # Arrow's own to_numpy would import pandas
    return Run(run_id, hashes[0], parameters, {name: columns[name].to_numpy() for name in names})
