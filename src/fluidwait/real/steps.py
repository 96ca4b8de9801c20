"""The steps of the real engine: a recording, its tables and its figures.

What a recording holds is known only when it is there, so its tables and figures are :class:`Deferred` products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Deferred, Rule, Step
from fluidwait.drawing.products import SUFFIXES, figure_products, figure_rule
from fluidwait.real import pace, tables
from fluidwait.real.bundle import DESCRIPTION, Bundle, read_bundle
from fluidwait.real.figures import FIGURES
from fluidwait.real.sources import RECORDINGS, is_fresh
from fluidwait.real.target import Target, load_target

TABLES = {"e9": ("generations", "fit", "pairs", "reality"), "e10": ("runs", "summary", "gain", "steps")}
"""Tables of each experiment, below ``results/<scale>/<experiment>/<machine>``, without suffix."""

RECORD = Rule("real_record", (RECORDINGS + "/{target}/" + DESCRIPTION,), whole_machine=True)
"""vLLM calibrated on this machine, and every policy run on it. Goes on where it was interrupted."""

TABLES_RULE = Rule(
    "real_tables",
    tuple(
        f"results/{{scale}}/{experiment}/{{machine}}/{table}.csv"
        for experiment in TABLES
        for table in TABLES[experiment]
    ),
)
"""Tables of a recording: the fit of the time model, simulator against reality, latencies, gains."""

FIGURE = figure_rule("real_figure", {"figures/{scale}/{real_figure}_{machine}": "{machine}"}, "real", "{real_figure}")


@dataclass(frozen=True)
class Recording:
    """A product that is measured: it is not the same twice, so it has no sidecar but a description of its own."""

    target: Target
    identity: Mapping[str, Any]
    code: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # another version of a library is no reason to measure again

    def make(self, path: Path) -> None:
        from fluidwait.real.record import record

        record(self.target, path.parent)


def record_step(name: str) -> Step:
    """Record the target in ``config/real/<name>.yaml``; a changed target, scheduler or policy records again."""
    target = load_target(name)
    identity = {"target": target.model_dump(exclude={"budget"}), "meter": pace.COMPUTATION}
    return Step(RECORD, (name,), {"target": name}, (Recording(target, identity, target.code()),))


def machine_steps(machine: str, folder: str, scale: str) -> list[Step]:
    """Tables and figures of the bundle in ``folder``, under the name ``machine``."""
    return [_tables(machine, folder, scale), *(_figure(name, machine, folder, scale) for name in FIGURES)]


def _tables(machine: str, folder: str, scale: str) -> Step:
    bundle = cache(lambda: read_bundle(folder))
    made = cache(lambda: tables.all_tables(bundle()))

    def product(experiment: str, table: str) -> Deferred:
        return Deferred(
            lambda: tables.artifact(bundle(), lambda: made()[experiment][table]),
            {"bundle": folder},
            tables.CODE,
            (f"{folder}/{DESCRIPTION}",),
        )

    products = tuple(product(experiment, table) for experiment in TABLES for table in TABLES[experiment])
    return Step(TABLES_RULE, (machine,), {"scale": scale, "machine": machine}, products)


def _figure(name: str, machine: str, folder: str, scale: str) -> Step:
    results, fresh = f"results/{scale}/{name}/{machine}", is_fresh(folder)
    drawn = cache(lambda: _drawn(name, read_bundle(folder), results, fresh))
    inputs = (f"{folder}/{DESCRIPTION}", *(f"{results}/{table}.csv" for table in TABLES[name]))
    code = imported_modules("fluidwait.drawing.products", FIGURES[name].__name__)
    products = tuple(
        Deferred(_part(drawn, place), {"bundle": folder, "fresh": fresh}, code, inputs)
        for place in range(len(SUFFIXES))
    )
    at = {"scale": scale, "real_figure": name, "machine": machine}
    return Step(FIGURE, (name, machine), at, products)


def _part(drawn: Callable[[], tuple[Artifact, ...]], place: int) -> Callable[[], Artifact]:
    return lambda: drawn()[place]


def _drawn(name: str, bundle: Bundle, results: str, fresh: bool) -> tuple[Artifact, ...]:
    kind = FIGURES[name]
    read = kind.INPUTS + (kind.WITH_RUNS if bundle.has_runs() else ())
    return figure_products(
        lambda: kind.make(Path(results), bundle, fresh),
        lambda: kind.caption(Path(results), bundle, fresh),
        identity={"figure": name, "fresh": fresh},
        inputs=(bundle.path(DESCRIPTION).as_posix(), *(f"{results}/{table}" for table in read)),
        code=kind.__name__,
        rule="real_figure",
    )
