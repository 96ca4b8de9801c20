"""How long the results took and how much memory they needed, by rule, from Snakemake's benchmark files.

Each job leaves one in ``results/<scale>/benchmarks/<rule>/``: seconds from the start of its process to its end, and
processor time and memory, which Snakemake samples every half second. So this table is the one that differs from run to
run.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.tables import load_table

COLUMNS = ("s", "cpu_time", "max_rss")
"""Of a benchmark file: wall time (s), processor time (s), resident memory (MiB)."""


def rule_times(scale: str) -> pl.DataFrame:
    """One row per rule, the longest first, of the jobs' latest runs.

    Columns: rule; jobs; seconds (of all jobs), median and longest (of one job); processor (s, of all jobs, sampled);
    memory (MiB, the largest of one job); machine and processors, on which this table is made.

    Raises:
        ConfigError: there are no benchmark files of this scale, or one is not what its name says.
    """
    folder = project_root() / "results" / scale / "benchmarks"
    files = sorted(folder.glob("*/*.tsv"))
    if not files:
        raise ConfigError(f"{folder}: no benchmark files")
    jobs = pl.DataFrame([{"rule": path.parent.name} | _read(path) for path in files], infer_schema_length=None)
    wall = pl.col("s")
    numbers = {"jobs": pl.len(), "seconds": wall.sum(), "median": wall.median(), "longest": wall.max()}
    numbers |= {"processor": pl.col("cpu_time").sum(), "memory": pl.col("max_rss").max()}
    here = {"machine": pl.lit(platform.machine()), "processors": pl.lit(os.cpu_count())}
    times = jobs.group_by("rule").agg(**numbers).with_columns(**here)
    return times.sort("seconds", "rule", descending=[True, False])


def _read(path: Path) -> dict[str, float | None]:
    """The numbers of one job; None where it ended before the first sample."""
    try:
        row = load_table(path, separator="\t", infer_schema=False).row(-1, named=True)
        return {name: None if row[name] in ("NA", "-") else float(row[name]) for name in COLUMNS}
    except (pl.exceptions.OutOfBoundsError, ConfigError, KeyError, ValueError):
        raise ConfigError(f"{path}: not a benchmark file of Snakemake") from None


def times_product(scale: str) -> Artifact:
    """:func:`rule_times` as CSV. Its inputs are times, so they are not recorded: they have no expected bytes."""
    return Artifact(
        lambda path, _: rule_times(scale).write_csv(path, float_precision=2),
        {"scale": scale, "same bytes every time": False},
        imported_modules(__name__),
        rule="rule_times",
    )
