"""``fluidwait report ...``: one command for each rule that makes the report and its appendix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The report and its appendix.", no_args_is_help=True, rich_markup_mode=None)

ScaleName = Annotated[str, typer.Option("--scale", help="folder below results/ and figures/")]
Out = Annotated[Path, typer.Option("--out", help="file to write")]


@app.command()
def document(
    source: Annotated[Path, typer.Argument(help="paper/report.typ")],
    files: Annotated[list[Path], typer.Argument(help="tables, and the PNG of every figure")],
    scale: ScaleName,
    data: Annotated[Path, typer.Option("--data", help="JSON to write: every number that the report prints")],
    out: Out,
) -> None:
    """Gather every number that the report prints, and typeset it."""
    from fluidwait.base.files import check_output
    from fluidwait.report.document import write_data, write_pdf

    check_output(out)
    write_data(scale, files, data)
    write_pdf(source, data, out)


@app.command()
def appendix(
    source: Annotated[Path, typer.Argument(help="paper/appendix.typ")],
    scale: ScaleName,
    times: Annotated[Path, typer.Option("--times", help="CSV to write: times and memory of all jobs by rule")],
    out: Out,
) -> None:
    """Add up times and memory of all jobs by rule, and typeset them."""
    from fluidwait.base.files import check_output
    from fluidwait.report.document import write_pdf
    from fluidwait.report.rule_times import write

    check_output(out)
    write(scale, times)
    write_pdf(source, times, out)
