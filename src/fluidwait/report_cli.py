"""``fluidwait report ...``: one command for each rule that makes the report and its appendix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The report and its appendix.", no_args_is_help=True, rich_markup_mode=None)

ScaleName = Annotated[str, typer.Option("--scale", help="folder below results/ and figures/")]
Out = Annotated[Path, typer.Option("--out", help="file to write")]


@app.command()
def data(
    files: Annotated[list[Path], typer.Argument(help="tables, and the PNG of every figure")],
    scale: ScaleName,
    out: Out,
) -> None:
    """Gather every number that the report prints, as JSON."""
    from fluidwait.report import write_data

    write_data(scale, files, out)


@app.command()
def pdf(
    source: Annotated[Path, typer.Argument(help="paper/report.typ or paper/appendix.typ")],
    data: Annotated[Path, typer.Argument(help="what it reads")],
    out: Out,
) -> None:
    """Typeset a document."""
    from fluidwait.report import write_pdf

    write_pdf(source, data, out)


@app.command()
def times(scale: ScaleName, out: Out) -> None:
    """Add up times and memory of all jobs by rule, as CSV."""
    from fluidwait.rule_times import write

    write(scale, out)
