"""All tables of a recording, as products of a step."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.real.bundle import Bundle
from fluidwait.real.fidelity import fit, generations, pairs, reality, replay
from fluidwait.real.gains import gain, runs, steps, summary
from fluidwait.real.target import workload_of
from fluidwait.workload import input_files

CODE = (*imported_modules(__name__), "fluidwait.policies.*")


def all_tables(bundle: Bundle) -> dict[str, dict[str, pl.DataFrame]]:
    """Every table of a bundle: generations, fit, pairs and reality of E9; runs, summary, gain and steps of E10.

    A bundle that was cut short before its first run has the first two; the others are empty then.
    """
    whole, empty = generations(bundle), pl.DataFrame()
    has_runs = bundle.has_runs()
    replayed = replay(bundle) if has_runs else []
    both = pairs(replayed) if replayed else empty
    metrics = runs(bundle) if has_runs else empty
    return {
        "e9": {
            "generations": whole,
            "fit": fit(bundle, whole),
            "pairs": both,
            "reality": reality(replayed, both) if replayed else empty,
        },
        "e10": {
            "runs": metrics,
            "summary": summary(bundle, metrics) if has_runs else empty,
            "gain": gain(bundle, metrics) if has_runs else empty,
            "steps": steps(bundle) if has_runs else empty,
        },
    }


def artifact(bundle: Bundle, table: Callable[[], pl.DataFrame]) -> Artifact:
    """One table made from a bundle."""
    target = bundle.target
    lengths = [file for name in target.variants for file in input_files(workload_of(target, name)[0])]
    return Artifact(
        lambda path, _: table().write_csv(path),
        {"target": target, "window": target.window},
        (*CODE, *imported_modules(*target.own_policies())),
        rule="real",
        inputs=names([bundle.path("bundle.json"), *(bundle.path(name) for name in bundle.about.files), *set(lengths)]),
    )
