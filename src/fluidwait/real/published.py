"""Published recordings of vLLM on real GPUs, ``data/records/<name>``: what was sent, and when its tokens came.

record.json            engine settings, hardware file, origin, hashes of the files
requests.parquet       one row per request, times in s from the first arrival; ``blocks``: numbers of its full blocks of
                       16 tokens, equal where everything up to their end is equal
timeseries.csv         the engine's own log, one line per second
reference_errors.csv   fifteen quantities of the recording, and what another simulator says of them
engine.yaml            the engine's settings as recorded
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from fluidwait.artifacts.canonical import file_sha256
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.files import atomic_path, write_text
from fluidwait.base.models import Strict, parse
from fluidwait.base.paths import project_root
from fluidwait.base.tables import load_table, read_columns
from fluidwait.base.text_files import read_text
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.engines.v1.rules import Rules, vllm
from fluidwait.workload import Requests

DESCRIPTION = "record.json"
REQUESTS, TIMESERIES, REFERENCE, ENGINE = "requests.parquet", "timeseries.csv", "reference_errors.csv", "engine.yaml"
TIMES = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "last_token_s")


class Description(Strict):
    """``record.json``."""

    record: Literal["fluidwait-record-1"] = "fluidwait-record-1"
    title: str
    hardware: str  # in data/hardware; its KV blocks are the engine's
    max_num_seqs: int = Field(ge=1)
    max_num_batched_tokens: int = Field(ge=1)
    enable_prefix_caching: bool
    vllm_version: str
    origin: str  # who recorded it, and the licence
    files: dict[str, str]  # SHA-256


class Published(NamedTuple):
    """A recording that somebody else made."""

    name: str
    folder: Path
    about: Description
    table: pl.DataFrame  # requests.parquet in the order of ``sent``

    @property
    def sent(self) -> Requests:
        """In the order in which the engine queued them, which is when they arrive."""
        arrival, prompt, output = (self.table[c].to_numpy() for c in ("queued_s", "prompt_tokens", "output_tokens"))
        return Requests(arrival, prompt, output, np.zeros(len(arrival), dtype=np.int64))

    def hardware(self) -> Hardware:
        return load_hardware(self.about.hardware)

    def hashes(self) -> list[list[int]]:
        """Of each request, the numbers of the full blocks of its prompt."""
        full = (self.table["prompt_tokens"] // self.hardware().block_size).to_list()
        return [blocks[:n] for blocks, n in zip(self.table["blocks"].to_list(), full, strict=True)]

    def rules(self, *, asynchronous: bool) -> Rules:
        """The engine's settings."""
        hardware = self.hardware()
        return vllm(
            hardware.kv_blocks,
            block_size=hardware.block_size,
            requests=self.about.max_num_seqs,
            tokens=self.about.max_num_batched_tokens,
            caching=self.about.enable_prefix_caching,
            asynchronous=asynchronous,
        )

    def reference(self) -> pl.DataFrame:
        return load_table(self.folder / REFERENCE)

    def timeseries(self) -> pl.DataFrame:
        return load_table(self.folder / TIMESERIES)


def home() -> Path:
    """Folder of the recordings that come with the project."""
    return project_root() / "data" / "records"


def names() -> list[str]:
    return sorted(path.parent.name for path in home().glob(f"*/{DESCRIPTION}"))


def describe(name: str) -> Description:
    """What ``record.json`` says.

    Raises:
        ConfigError: there is none of this name, or it says something else.
    """
    path = home() / name / DESCRIPTION
    try:
        return Description.model_validate_json(path.read_bytes())
    except OSError:
        raise ConfigError(f"{path}: no recording here{nearest(name, names())}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a recording ({str(error).splitlines()[0]})") from None


def read_published(name: str) -> Published:
    """Read and check a recording.

    Raises:
        ConfigError: there is none of this name, or a file of it is missing or was changed.
    """
    folder, about = home() / name, describe(name)
    for file, expected in about.files.items():
        if file_sha256(folder / file) != expected:
            raise ConfigError(f"{folder / file}: changed since the recording was packed")
    table = pl.read_parquet(folder / REQUESTS).sort("queued_s", "request")
    return Published(name, folder, about, table)


def pack(source: Path, name: str, title: str, hardware: str, origin: str) -> Published:
    """Make ``data/records/<name>`` from CSV files.

    Args:
        source: holds ``requests.csv`` (request, times in s, prompt_tokens, output_tokens), ``block_hashes.csv``
            (request, hash_ids separated by spaces), and the other files under their names.
        hardware: name in ``data/hardware``.
        origin: who recorded it, and the licence.

    Raises:
        ConfigError: a file, line, column or setting that cannot be used.
    """
    engine, out = load_yaml(source / ENGINE), home() / name
    with atomic_path(out / REQUESTS) as path:
        _requests(source).write_parquet(path, compression="zstd", compression_level=19)
    for file in (TIMESERIES, REFERENCE, ENGINE):
        write_text(out / file, read_text(source / file, "text"))
    options, cache = engine.get("engine_kwargs") or {}, engine.get("kv_cache") or {}
    about = {
        "title": title,
        "hardware": hardware,
        "vllm_version": str(engine.get("vllm_version")),
        "max_num_seqs": options.get("max_num_seqs"),
        "max_num_batched_tokens": options.get("max_num_batched_tokens"),
        "enable_prefix_caching": cache.get("enable_prefix_caching", True),  # vLLM's default
        "origin": origin,
        "files": {file: file_sha256(out / file) for file in (REQUESTS, TIMESERIES, REFERENCE, ENGINE)},
    }
    described = parse(Description, about, source / ENGINE)
    write_text(out / DESCRIPTION, described.model_dump_json(indent=1) + "\n")
    return read_published(name)


def _requests(source: Path) -> pl.DataFrame:
    whole = {"request": 0, "prompt_tokens": 1, "output_tokens": 1}
    columns = read_columns(source / "requests.csv", whole, TIMES)
    blocks = read_columns(source / "block_hashes.csv", {"request": 0}, text=("hash_ids",))
    numbers = [[int(n) for n in (ids or "").split()] for ids in blocks["hash_ids"]]
    hashed = pl.DataFrame(
        {"request": blocks["request"], "blocks": numbers}, schema_overrides={"blocks": pl.List(pl.UInt32)}
    )
    table = pl.DataFrame(dict(columns)).join(hashed, on="request", how="left", maintain_order="left")
    return table.with_columns(pl.col("prompt_tokens", "output_tokens").cast(pl.Int64))
