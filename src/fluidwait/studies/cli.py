"""Commands of the studies' rules, one a rule: ``fluidwait study ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Studies that are not sweeps over rates: E6 and E11.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="STUDY", help="name in config/studies, or a YAML file")]
ScaleName = Annotated[str, typer.Option("--scale", help="key under scales in the study")]
Part = Annotated[str, typer.Argument(metavar="PART", help="key under scaling")]
Out = Annotated[Path, typer.Option("--out", help="file to write")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUNS...", help="tables of `runs`, all parts")]


def _e6(name: str):
    from fluidwait.studies.e6 import E6
    from fluidwait.studies.registry import load_study

    return load_study(name, E6)


def _e11(name: str):
    from fluidwait.studies.e11 import E11
    from fluidwait.studies.registry import load_study

    return load_study(name, E11)


@app.command()
def runs(name: Name, part: Part, scale: ScaleName, out: Out) -> None:
    """Run one part of the scaling table (E11)."""
    from fluidwait.studies.scaling import runs as run

    run(_e11(name), part, scale, out)


@app.command()
def scaling(
    name: Name,
    tables: Runs,
    scale: ScaleName,
    out: Out,
    exponents: Annotated[Path, typer.Option("--exponents", help="table of exponents to write")],
) -> None:
    """Means against zeta T and fitted exponents (E11)."""
    from fluidwait.studies import scaling as module

    study = _e11(name)
    module.scaling(study, tables, scale, out)
    module.exponents(study, tables, scale, exponents)


@app.command()
def gaps(
    name: Name,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="fcfs_gap or unknown_gap")],
    scale: ScaleName,
    out: Out,
) -> None:
    """Throughput gaps at C = M* (E11)."""
    from fluidwait.studies.gaps import gaps as run

    run(_e11(name), table, scale, out)


@app.command()
def toy(name: Name, scale: ScaleName, out: Out) -> None:
    """The paper's toy example (E11)."""
    from fluidwait.studies.toy import toy as run

    study = _e11(name)
    study.scale(scale)
    run(study, out)


@app.command()
def overflow(name: Name, scale: ScaleName, out: Out) -> None:
    """How often Nested WAIT exceeds its memory bound (E11)."""
    from fluidwait.studies.overflow import overflow as run

    run(_e11(name), scale, out)


@app.command()
def memory(
    name: Name,
    scale: ScaleName,
    out: Out,
    answers: Annotated[Path, typer.Option("--answers", help="table of findings under all choices to write")],
) -> None:
    """Memory terms against the number of segments (E6)."""
    from fluidwait.studies import e6

    study = _e6(name)
    e6.memory(study, scale, out)
    e6.answers(study, scale, answers)


@app.command()
def figure(
    name: Name,
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help="name of the figure")],
    scale: ScaleName,
    results: Annotated[Path, typer.Option("--results", help="folder of the study's tables")],
    out: Annotated[list[Path], typer.Option("--out", help="files to write, one per format")],
) -> None:
    """Draw one figure in every format asked for."""
    from fluidwait.studies.draw import draw
    from fluidwait.studies.registry import load_study

    draw(load_study(name), figure, scale, results, out)
