"""How long the results took, by rule and machine, from the wall times that the sidecars of the artifacts hold.

A wall time is that of the computation which made an artifact: without the start of its process, and including whatever
else the machine did. So this table is the one that differs from run to run.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fluidwait.config import ConfigError
from fluidwait.paths import project_root
from fluidwait.provenance import artifacts, imported_modules, read_sidecar, write_artifact

OWN = ("rule_times", "appendix")
"""Rules that make or print this table."""


def rule_times(scale: str) -> pl.DataFrame:
    """One row per rule and machine, the longest first.

    Columns: rule, machine, processors, artifacts, seconds (in all), median and longest (of one artifact, seconds).

    Raises:
        ConfigError: there are no artifacts of this scale.
    """
    rows = []
    for folder in (project_root() / top / scale for top in ("results", "figures")):
        for artifact in artifacts(folder) if folder.is_dir() else ():
            sidecar = read_sidecar(artifact)
            machine = {key: sidecar.device.get(key) for key in ("machine", "processors")}
            rows.append({"rule": sidecar.rule} | machine | {"wall": sidecar.wall_seconds})
    rows = [row for row in rows if row["rule"] not in OWN]
    if not rows:
        raise ConfigError(f"results/{scale}: no artifacts")
    wall = pl.col("wall")
    numbers = {"artifacts": pl.len(), "seconds": wall.sum(), "median": wall.median(), "longest": wall.max()}
    times = pl.DataFrame(rows, infer_schema_length=None).group_by("rule", "machine", "processors").agg(**numbers)
    return times.sort("seconds", "rule", "machine", "processors", descending=[True, False, False, False])


def write(scale: str, out: str | Path) -> None:
    """Write :func:`rule_times` as CSV. Its inputs are times, so they are not recorded: they have no expected bytes."""
    write_artifact(
        out,
        lambda path, _: rule_times(scale).write_csv(path, float_precision=3),
        config={"scale": scale, "same bytes every time": False},
        code=imported_modules(__name__),
        rule="rule_times",
    )
