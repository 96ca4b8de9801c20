"""What all studies share: scales, seeds, and a table as a product of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, Words
from fluidwait.base.scales import SEED_STEP, split_scale


class Study(Strict):
    """What all studies have; each adds its own ``scales``."""

    id: str
    title: Words
    scales: dict[str, Any]

    def named_files(self) -> Iterator[tuple[str, str, str]]:
        """The files that it names: key in the study, folder from the project's root, name of the file."""
        return iter(())

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


def table_product(
    table: Callable[[], pl.DataFrame],
    *,
    identity: dict[str, Any],
    module: str,
    rule: str,
    inputs: tuple[str, ...] = (),
) -> Artifact:
    """A table as a CSV file; ``module`` computes it and names the code."""
    return Artifact(lambda path, _: table().write_csv(path), identity, imported_modules(module), rule, inputs)
