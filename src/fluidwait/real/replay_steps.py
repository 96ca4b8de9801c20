"""The step that replays the published recordings, and its figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Step, names, results_rule
from fluidwait.base.paths import project_root
from fluidwait.drawing.products import figure_products, figure_rule
from fluidwait.real import published, replays
from fluidwait.real import replays_figure as drawing

NAME = "vllm_records"
"""Of the folder of its results, and of its figure."""

TABLES: dict[str, Callable[[list[published.Published]], pl.DataFrame]] = {
    "errors": replays.errors,
    "variants": replays.variants,
    "timeline": replays.timeline,
}

REPLAY = results_rule("real_replay", *(f"results/{{scale}}/{{replay}}/{table}.csv" for table in TABLES))
"""The simulator on the requests of published recordings of vLLM: fifteen quantities, variants, state over time."""

FIGURE = figure_rule("real_replay_figure", {"figures/{scale}/{replay}": "{replay}"}, "replay", "replays")


def replay_steps(scale: str) -> list[Step]:
    """Tables and figure, the same at every scale; none where there is no recording."""
    found = published.names()
    if not found:
        return []
    read = cache(lambda: [published.read_published(name) for name in found])
    hardware = [project_root() / "data" / "hardware" / f"{published.describe(name).hardware}.yaml" for name in found]
    inputs = names([*(published.home() / name / published.DESCRIPTION for name in found), *hardware])
    code = imported_modules(replays.__name__)

    def product(table: str) -> Artifact:
        make = TABLES[table]
        return Artifact(lambda path, _: make(read()).write_csv(path), {"table": table}, code, "real_replay", inputs)

    at = {"scale": scale, "replay": NAME}
    tables = Step(REPLAY, (NAME,), at, tuple(product(table) for table in TABLES))
    return [tables, Step(FIGURE, (NAME,), at, _figure(scale))]


def _figure(scale: str) -> tuple[Artifact, ...]:
    folder = f"results/{scale}/{NAME}"
    return figure_products(
        lambda: drawing.make(Path(folder)),
        lambda: drawing.caption(Path(folder)),
        identity={"figure": NAME},
        inputs=tuple(f"{folder}/{table}" for table in drawing.INPUTS),
        code=drawing.__name__,
        rule="real_replay_figure",
    )
