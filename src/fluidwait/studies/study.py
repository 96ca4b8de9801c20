"""What all studies share: scales, seeds, and writing a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, Words
from fluidwait.experiments.experiment import SEED_STEP, split_scale


class Study(Strict):
    """What all studies have; each adds its own ``scales``."""

    id: str
    title: Words
    scales: dict[str, Any]

    def scale(self, name: str) -> Any:
        """The sizes of a scale; ``paper-seeds2`` has those of ``paper``.

        Raises:
            ConfigError: there is no such scale.
        """
        base, _ = split_scale(name)
        if base not in self.scales:
            raise ConfigError(f"study {self.id}: scale '{name}' is not defined{nearest(base, list(self.scales))}")
        return self.scales[base]


def seed_at(seed: int, scale: str) -> int:
    """The seed of a scale's seed set, spaced as those of the experiments are."""
    return seed + SEED_STEP * split_scale(scale)[1]


def write_table(
    out: Path,
    table: pl.DataFrame,
    *,
    config: dict[str, Any],
    module: str,
    rule: str,
    inputs: Iterable[Path] = (),
    seconds: float | None = None,
) -> None:
    """Write a table as CSV with its sidecar; ``module`` computes it and names the code."""
    write_artifact(
        out,
        lambda path, _: table.write_csv(path),
        config=config,
        inputs=inputs,
        code=imported_modules(module),
        rule=rule,
        wall_seconds=seconds,
    )
