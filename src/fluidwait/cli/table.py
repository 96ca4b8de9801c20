"""``fluidwait table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluidwait.cli.printing import print_table


def table(
    csv: Annotated[Path, typer.Argument(help="data set with one request per row")],
    out: Annotated[Path, typer.Option(help="table to write")],
    prompt_column: Annotated[str, typer.Option(help="column of the prompt lengths, tokens")] = "prompt",
    output_column: Annotated[str, typer.Option(help="column of the output lengths, tokens")] = "output",
    max_prompt: Annotated[int | None, typer.Option(help="longest prompt kept")] = None,
    max_output: Annotated[int | None, typer.Option(help="longest output kept")] = None,
    max_total: Annotated[int | None, typer.Option(help="longest prompt and output together kept")] = None,
    empty: Annotated[str, typer.Option(help="an empty prompt or output: refuse, drop, or one (a token)")] = "refuse",
    source: Annotated[str | None, typer.Option(help="where the data come from, for the table's first lines")] = None,
) -> None:
    """Turn a data set of requests into a small table of lengths for a workload."""
    from fluidwait.workload import table as workload_table

    summary = workload_table.make_table(
        csv,
        out,
        prompt_column=prompt_column,
        output_column=output_column,
        max_prompt=max_prompt,
        max_output=max_output,
        max_total=max_total,
        empty=empty,
        source=source,
    )
    print_table(("requests", "count"), [(name, str(count)) for name, count in summary._asdict().items()])
    print(f"\nwrote {out}")
